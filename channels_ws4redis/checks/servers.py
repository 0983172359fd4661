"""Checks of the server that is being started. Private."""

from __future__ import annotations

import sys
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage
from django.core.management import get_commands

#: Whose ``runserver`` is a WSGI server. The first is what a project without any of the others has.
_WITHOUT_SOCKETS = ("django.core", "django.contrib.staticfiles")


def check_runserver(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find that ``runserver``, when it is what starts, serves no sockets (W010)."""
    # Not otherwise: a project may well be served by uvicorn alone.
    if sys.argv[1:2] != ["runserver"] or get_commands()["runserver"] not in _WITHOUT_SOCKETS:
        return []
    return [
        checks.Warning(
            "This is Django's own runserver, which serves no WebSockets: each gets a 404 or 400.",
            hint="Put 'daphne' first in INSTALLED_APPS, and name your asgi.py in "
            "ASGI_APPLICATION; or start uvicorn in its place.",
            id="ws4redis.W010",
        )
    ]
