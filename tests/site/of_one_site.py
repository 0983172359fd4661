"""A project of several sites, whose users may log in on one of them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from django.contrib.auth.backends import ModelBackend

#: The site of a socket, as a middleware of a project may note it.
site: ContextVar[str] = ContextVar("site", default="")


class OfOneSite(ModelBackend):
    """Lets users in on the site of their name, and on any where nobody has noted one."""

    def user_can_authenticate(self, user: Any) -> bool:
        """Tell, and leave a trace."""
        here = site.get()
        site.set("left behind")
        return here in {"", user.get_username()}
