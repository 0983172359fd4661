"""The Django app, and what it has Django call. Private."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in

from channels_ws4redis import checks
from channels_ws4redis.handshake.policies import discover
from channels_ws4redis.protocol.names import AT_LOGIN, MEMBER_OF


class WS4RedisConfig(AppConfig):
    """Connects the login signal and the system checks, and finds the policies of all apps."""

    name = "channels_ws4redis"
    # The label of the legacy app, by which a project may look the app up; there are no tables.
    label = "ws4redis"
    verbose_name = "Channels WS4Redis"

    def ready(self) -> None:
        """Register what Django calls."""
        user_logged_in.connect(store_groups_in_session, dispatch_uid="ws4redis.memberof")
        # Imported late, as it asks for the model of users.
        from channels_ws4redis import wiring  # noqa: PLC0415

        wiring.connect()
        checks.register()
        discover.cache_clear()  # a test may have added apps meanwhile
        discover()


def store_groups_in_session(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
    """Write the names of a user's auth groups into the session, where sockets look for them.

    The application may write other names there: a publisher reaches any of them by ``groups=``.
    Nothing is written for a user model without groups, nor at a login without a session.
    """
    session = getattr(request, "session", None)
    if session is not None and hasattr(user, "groups"):
        session[MEMBER_OF] = session[AT_LOGIN] = [group.name for group in user.groups.all()]
