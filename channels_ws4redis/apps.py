"""The Django app. Private."""

from __future__ import annotations

from django.apps import AppConfig

from channels_ws4redis import checks, wiring
from channels_ws4redis.handshake.policies import discover


class WS4RedisConfig(AppConfig):
    """Connects Django's signals and the system checks, and finds the policies of all apps."""

    name = "channels_ws4redis"
    # The label of the legacy app, by which a project may look the app up; there are no tables.
    label = "ws4redis"
    verbose_name = "Channels WS4Redis"

    def ready(self) -> None:
        """Register what Django calls."""
        wiring.connect()
        checks.register()
        discover.cache_clear()  # a test may have added apps meanwhile
        discover()
