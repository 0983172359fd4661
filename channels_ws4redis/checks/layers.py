"""Checks of the channel layer. Private."""

from __future__ import annotations

from typing import Any

import redis
from channels.layers import get_channel_layer
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage

from channels_ws4redis.conf import OWN_LAYER, settings
from channels_ws4redis.fanout.choice import backend_of

#: The core layer drops what exceeds its capacity; ours holds so much.
_ENOUGH_CAPACITY = 10_000

#: The release of redis-py whose blocking reads end after five seconds unless told otherwise.
_REDIS_WITH_TIMEOUT = 8


def check_layer(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find a missing channel layer (E001) and one that loses messages (W001, W002, E003)."""
    if not _has_layer():
        return [
            checks.Error(
                "CHANNEL_LAYERS has no 'default'; no message can be published or received.",
                hint=f"Add to the settings: {OWN_LAYER}",
                id="ws4redis.E001",
            )
        ]
    layer = get_channel_layer()
    problems: list[CheckMessage] = []
    if _is_core(layer):
        problems += _check_core(layer)
    if settings.WS4REDIS_LEGACY_SERVERS and not backend_of(layer).hears_foreign:
        problems.append(
            checks.Error(
                "WS4REDIS_LEGACY_SERVERS is set, but with this channel layer nothing that a "
                "legacy server publishes reaches the sockets here.",
                hint=f"Set {OWN_LAYER}, without 'hosts', while you migrate.",
                id="ws4redis.E003",
            )
        )
    return problems


def _is_core(layer: Any) -> bool:
    return any(base.__module__ == "channels_redis.core" for base in type(layer).__mro__)


def _check_core(layer: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    if int(redis.__version__.partition(".")[0]) >= _REDIS_WITH_TIMEOUT and any(
        "socket_timeout" not in host and "socket_timeout" not in host.get("address", "")
        for host in layer.hosts
        if isinstance(host, dict)
    ):
        problems.append(
            checks.Warning(
                "channels_redis.core.RedisChannelLayer on redis-py 8 or later times out every "
                "five seconds when no message arrives.",
                hint=f"Use {OWN_LAYER}, or add 'socket_timeout': None to its hosts.",
                id="ws4redis.W001",
            )
        )
    if layer.capacity < _ENOUGH_CAPACITY:
        problems.append(
            checks.Warning(
                f"channels_redis.core.RedisChannelLayer holds {layer.capacity} messages per "
                "process and silently drops what exceeds them.",
                hint=f"Use {OWN_LAYER}, or a 'capacity' of {_ENOUGH_CAPACITY}.",
                id="ws4redis.W002",
            )
        )
    return problems


def check_one_process(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find a layer that reaches the sockets of one process only (W006)."""
    if not _has_layer() or not backend_of(get_channel_layer()).one_process:
        return []
    return [
        checks.Warning(
            "The in-memory channel layer reaches sockets of the publishing process only.",
            hint=f"Set {OWN_LAYER}",
            id="ws4redis.W006",
        )
    ]


def _has_layer() -> bool:
    return "default" in (getattr(django_settings, "CHANNEL_LAYERS", None) or {})  # or E001 says so
