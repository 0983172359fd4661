"""Checks before a deployment. Private."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.checks import CheckMessage

from channels_ws4redis.checks.values import usable_subscriber
from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.sessions import unshared_session_cache
from channels_ws4redis.protocol.names import is_public

_SHARED = "a cache that all processes share, such as django.core.cache.backends.redis.RedisCache"


def check_reach(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find that clients may reach keys of other programs (W007)."""
    problems: list[CheckMessage] = []
    if not settings.WS4REDIS_PREFIX:
        problems.append(
            checks.Warning(
                "WS4REDIS_PREFIX is not set: whoever can open a socket may read and replace keys "
                "in Redis whose names begin with 'broadcast:', and other programs may have some.",
                hint="Set WS4REDIS_PREFIX if anything else uses this Redis database; a new prefix "
                "hides what is stored. Else silence this check.",
                id="ws4redis.W007",
            )
        )
    return problems


def check_sessions(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find sessions in a cache that no other process sees (W009), or in no cache at all (I001)."""
    subscriber = usable_subscriber()
    if unshared := unshared_session_cache():
        return [
            checks.Warning(
                f"Sessions are cached by {unshared}, which processes do not share: a session that "
                "has ended in one process may go on in the others, or be known to none.",
                hint=f"Have CACHES name {_SHARED}.",
                id="ws4redis.W009",
            )
        ]
    if (
        settings.SESSION_ENGINE != "django.contrib.sessions.backends.db"
        or subscriber is None
        or is_public([*subscriber.subscription_channels, *subscriber.publish_channels])
    ):
        return []
    return [
        checks.Info(
            "The session is read from the database for every socket that asks for messages to "
            "its user, auth groups or session; when a server restarts, all of them at once.",
            hint="Set SESSION_ENGINE = 'django.contrib.sessions.backends.cached_db', on "
            f"{_SHARED}.",
            id="ws4redis.I001",
        )
    ]
