"""What happens at login."""

from __future__ import annotations

from typing import Any

from channels_ws4redis.protocol.names import MEMBER_OF


def store_groups_in_session(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
    """Keep the names of a user's auth groups in the session, from where sockets take them.

    The application may write there as well: any string is a group to publish to. A user model
    without groups and a login without a request (or with one that has no session) are left alone.
    """
    session = getattr(request, "session", None)
    if session is not None and hasattr(user, "groups"):
        session[MEMBER_OF] = [group.name for group in user.groups.all()]
