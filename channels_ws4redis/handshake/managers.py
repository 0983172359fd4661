"""Whether rows of a model can be read for many sockets at once, in place of one by one.

A manager of the project's own may find other rows for one socket than for another, such as those of
the site that a middleware has noted. Only itself knows, when it is asked for that socket.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db.models import Manager, QuerySet

#: What managers have of their own that says nothing of which rows they find; the class of querysets
#: is looked at by itself.
_HARMLESS = {"use_in_migrations", "_queryset_class"}


def finds_as_django(manager: Any) -> bool:
    """Tell whether a manager leaves it to Django which rows there are, and how they are read."""
    own: type = type(manager)
    return _overrides_nothing(own, Manager) and _overrides_nothing(
        manager._queryset_class, QuerySet
    )


@cache
def _overrides_nothing(cls: type, base: type) -> bool:
    own = {name for each in cls.__mro__ if each not in base.__mro__ for name in vars(each)}
    public = {name for name in own - _HARMLESS if not name.startswith("__")}
    return not any(hasattr(base, name) for name in public)
