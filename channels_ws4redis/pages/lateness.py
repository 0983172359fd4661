"""Whether a page reads its data before the template tag asks for its positions. Private.

What is published in between is neither on the page nor on its socket.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import connections

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.loops import running_loop

logger = logging.getLogger(__name__)

#: Apps whose tables tell who the visitor is, what that one may do, and on which site.
_OF_VISITOR = {"auth", "contenttypes", "sessions", "sites"}

#: What reads the database, and the first table that it reads.
_READS = re.compile(r"\s*(?:SELECT|WITH)\b.*?\bFROM\s+[\"`\[]?([\w$]+)", re.IGNORECASE | re.DOTALL)

#: The templates and views of which the log has a line.
_told: set[tuple[str, str]] = set()


def tell_if_late(request: Any, template: str) -> None:
    """Log with ``DEBUG``, once for each template and view, that the tag should have a stamp.

    :param template: the name of its file, for the log.
    """
    if not settings.DEBUG or request is None:
        return
    view = getattr(getattr(request, "resolver_match", None), "view_name", None) or ""
    where = template, view
    if where in _told:
        return
    if running_loop() is not None:
        # What asynchronous views read is read in other threads, of which nothing is known here.
        _told.add(where)
        logger.warning(
            "The template tag in %s, which an asynchronous view renders, asks Redis on the event "
            "loop, after whatever the view has read; pass at=await astamp(…), taken before that",
            shown(template),
        )
    elif (table := next(_tables(), None)) is not None:
        _told.add(where)
        logger.warning(
            "The template tag in %s asks for positions after the view has read the table %s: what "
            "is published in between is missed; pass at=stamp(…), taken before that",
            shown(template),
            shown(table),
        )


def _tables() -> Iterator[str]:
    """Yield the tables that this thread has read for the request, but for those of the visitor.

    With ``DEBUG`` Django notes what is asked on each connection, and forgets it when the next
    request starts.
    """
    logs = [connection.queries_log for connection in connections.all(initialized_only=True)]
    if not any(logs):
        return
    left_out = {
        model._meta.db_table
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label in _OF_VISITOR
        or issubclass(model, AbstractBaseUser | AbstractBaseSession)
    }
    for query in (query for log in logs for query in log):
        found = _READS.match(query.get("sql") or "")
        if found is not None and found[1] not in left_out:
            yield found[1]
