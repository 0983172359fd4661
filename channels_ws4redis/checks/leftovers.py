"""Checks for what legacy needed and what is in the way now. Private."""

from __future__ import annotations

import sys
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage


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
