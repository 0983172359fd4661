"""Where legacy projects have their uWSGI entry point; it only tells what to write instead."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.django_runserver import REMEDY

__all__ = ["uWSGIWebsocketServer"]


class uWSGIWebsocketServer:  # noqa: N801 # the legacy name
    """Tells what to write in ``asgi.py``.

    :raises django.core.exceptions.ImproperlyConfigured: always.
    """

    def __init__(self, redis_connection: Any = None) -> None:
        raise ImproperlyConfigured(
            REMEDY.format(name="ws4redis.uwsgi_runserver.uWSGIWebsocketServer")
        )
