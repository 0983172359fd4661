"""System checks: what a project, above all one from legacy, typically has wrong. Private."""

from __future__ import annotations

import sys
from typing import Any

import redis
from channels.layers import get_channel_layer
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from channels_ws4redis.conf import NAMES, settings
from channels_ws4redis.fanout.choice import backend_of
from channels_ws4redis.handshake.origins import Origin
from channels_ws4redis.handshake.requests import unshared_session_cache
from channels_ws4redis.protocol.names import is_public
from channels_ws4redis.spelling import setting_meant_by
from channels_ws4redis.store.clients import connection_kwargs
from channels_ws4redis.subscriber import RedisSubscriber, subscriber_class

_LAYER = "{'default': {'BACKEND': 'channels_ws4redis.layers.RedisChannelLayer'}}"
_SHARED = "a cache that all processes share, such as django.core.cache.backends.redis.RedisCache"

#: The core layer drops what exceeds its capacity; ours holds so much.
_ENOUGH_CAPACITY = 10_000

#: The release of redis-py whose blocking reads end after five seconds unless told otherwise.
_REDIS_WITH_TIMEOUT = 8

#: What is to be said about a wrong value that legacy took.
_HINTS = {
    "WS4REDIS_EXPIRE": " With 0 or None nothing is stored, as with -1 in django-websocket-redis.",
}


def register() -> None:
    """Register all checks with Django."""
    for check in (
        check_settings,
        check_names,
        check_origins,
        check_layer,
        check_hooks,
        check_leftovers,
    ):
        checks.register(check)
    for check in (check_reach, check_sessions):
        checks.register(check, deploy=True)


def check_origins(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find what is no origin among those that may open sockets (E004)."""
    return [
        checks.Error(
            f"WS4REDIS_ALLOWED_ORIGINS contains {name!r}, which lets no page in.",
            hint="Write an origin with its scheme, such as 'https://app.example.com' or "
            "'https://*.example.com'; '*' alone lets all pages in.",
            id="ws4redis.E004",
        )
        for name in settings.WS4REDIS_ALLOWED_ORIGINS
        if name not in ("*", "null", "file://") and Origin.of(name.rstrip("/")) is None
    ]


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find settings whose value makes no sense (E004)."""
    problems: list[CheckMessage] = []
    for name in NAMES:
        try:
            getattr(settings, name)
            if name == "WS4REDIS_CONNECTION":
                connection_kwargs()
        except ImproperlyConfigured as error:
            hint = f"Correct {name}." + _HINTS.get(name, "")
            problems.append(checks.Error(str(error), hint=hint, id="ws4redis.E004"))
    return problems


def check_names(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find settings whose names are nearly those of the package, which nothing reads (W008)."""
    names = sorted(set(dir(django_settings)) - set(NAMES))
    return [
        checks.Warning(
            f"{name} is no setting of channels_ws4redis; did you mean {meant}?",
            hint=f"Rename it, or silence this check if {name} is a setting of your own.",
            id="ws4redis.W008",
        )
        for name in names
        if (meant := setting_meant_by(name))
        # Beside that one, WEBSOCKET_URI or the like is a setting of the project.
        and not (meant == "WEBSOCKET_URL" and hasattr(django_settings, meant))
    ]


def check_layer(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find a missing channel layer (E001) and one that loses messages (W001, W002, E003)."""
    if not _has_layer():
        return [
            checks.Error(
                "CHANNEL_LAYERS has no 'default'; no message can be published or received.",
                hint=f"Add to the settings: CHANNEL_LAYERS = {_LAYER}",
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
                hint=f"Set CHANNEL_LAYERS = {_LAYER}, without 'hosts', while you migrate.",
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
                hint=f"Use CHANNEL_LAYERS = {_LAYER}, or add 'socket_timeout': None to its hosts.",
                id="ws4redis.W001",
            )
        )
    if layer.capacity < _ENOUGH_CAPACITY:
        problems.append(
            checks.Warning(
                f"channels_redis.core.RedisChannelLayer holds {layer.capacity} messages per "
                "process and silently drops what exceeds them.",
                hint=f"Use CHANNEL_LAYERS = {_LAYER}, or a 'capacity' of {_ENOUGH_CAPACITY}.",
                id="ws4redis.W002",
            )
        )
    return problems


def check_hooks(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find hooks that are named by a dotted path and cannot be imported (E002)."""
    outcomes = {
        "WS4REDIS_ALLOWED_CHANNELS": "grants no channel to anybody",
        "WS4REDIS_PROCESS_REQUEST": "logs nobody in",
        "WS4REDIS_SUBSCRIBER": "refuses every socket",
    }
    return [
        checks.Error(
            f"{name}: {problem}; until it is corrected the server {outcome}.",
            hint=f"Set {name} to the dotted path of an importable "
            + ("subclass of RedisSubscriber." if "SUBSCRIBER" in name else "function."),
            id="ws4redis.E002",
        )
        for name, outcome in outcomes.items()
        if (problem := _problem_of_hook(name))
    ]


def _problem_of_hook(name: str) -> str:
    value = getattr(settings, name)
    try:
        if name == "WS4REDIS_SUBSCRIBER":
            subscriber_class()
            return ""
        found = import_string(value) if isinstance(value, str) else value
    except TypeError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 # whatever the project's module raises
        return f"{value!r} cannot be imported ({error})"
    return "" if found is None or callable(found) else f"{value!r} cannot be called"


def check_leftovers(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find what legacy needed and what is in the way now (W003, W004)."""
    problems: list[CheckMessage] = []
    entry_point = getattr(django_settings, "WSGI_APPLICATION", None)
    if str(entry_point).split(".")[0] in ("ws4redis", "channels_ws4redis"):
        problems.append(
            checks.Warning(
                f"WSGI_APPLICATION still is {entry_point!r}, which serves nothing any more.",
                hint="Remove it, or name your own wsgi.py; sockets are served by "
                "ASGI_APPLICATION = '<your project>.asgi.application'.",
                id="ws4redis.W003",
            )
        )
    if what := _gevent():
        problems.append(
            checks.Warning(
                f"{what}, which legacy needed under uWSGI; an event loop of asyncio would be "
                "blocked by it.",
                hint="Remove 'redis.connection.socket = gevent.socket' and gevent's "
                "monkey.patch_all() from what the ASGI server loads.",
                id="ws4redis.W004",
            )
        )
    return problems


def _gevent() -> str:
    """Return what gevent has replaced; it is looked for only where the project has loaded it."""
    if getattr(getattr(redis.connection, "socket", None), "__name__", "") == "gevent.socket":
        return "redis.connection.socket is gevent's"
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("socket"):
        return "The standard library is patched by gevent"
    return ""


def check_reach(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find that clients reach keys of other programs, or messages one process only."""
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
    if _has_layer() and backend_of(get_channel_layer()).one_process:
        problems.append(
            checks.Warning(
                "The in-memory channel layer reaches sockets of the publishing process only.",
                hint=f"Set CHANNEL_LAYERS = {_LAYER}",
                id="ws4redis.W006",
            )
        )
    return problems


def check_sessions(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find sessions in a cache that no other process sees (W009), or in no cache at all (I001)."""
    subscriber = _subscriber()
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


def _subscriber() -> type[RedisSubscriber] | None:
    # What is wrong with it is said by E002.
    return None if _problem_of_hook("WS4REDIS_SUBSCRIBER") else subscriber_class()


def _has_layer() -> bool:
    return "default" in (getattr(django_settings, "CHANNEL_LAYERS", None) or {})  # or E001 says so
