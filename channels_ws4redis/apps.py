"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in

from channels_ws4redis import checks
from channels_ws4redis.handshake.receivers import store_groups_in_session


class WS4RedisConfig(AppConfig):
    """Connects the login signal and the system checks."""

    name = "channels_ws4redis"
    # The label of the legacy app, by which code may have asked for it; there are no tables.
    label = "ws4redis"
    verbose_name = "Channels WS4Redis"

    def ready(self) -> None:
        """Register what Django calls."""
        user_logged_in.connect(store_groups_in_session, dispatch_uid="ws4redis.memberof")
        checks.register()
