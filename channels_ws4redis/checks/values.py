"""Checks of the settings' values and names, and of what they name. Private."""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from channels_ws4redis.checks.spelling import setting_meant_by
from channels_ws4redis.conf import NAMES, settings
from channels_ws4redis.handshake.origins import Origin
from channels_ws4redis.store.clients import connection_kwargs
from channels_ws4redis.subscriber import RedisSubscriber, subscriber_class

#: What is to be said about a wrong value that legacy took.
_HINTS = {
    "WS4REDIS_EXPIRE": " With 0 or None nothing is stored, as with -1 in django-websocket-redis.",
}


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


def usable_subscriber() -> type[RedisSubscriber] | None:
    """Return the class of subscribers; None if there is none, of which E002 tells."""
    return None if _problem_of_hook("WS4REDIS_SUBSCRIBER") else subscriber_class()


def _problem_of_hook(name: str) -> str:
    """Return why a setting names no hook that can be used; empty if it does."""
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
