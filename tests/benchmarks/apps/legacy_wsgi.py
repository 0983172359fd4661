"""The legacy contender's WSGI module for uWSGI, as its documentation says."""

# mypy: ignore-errors
# Everything here lives in the environment of the legacy contender.

from __future__ import annotations

import gevent.socket
import redis.connection

redis.connection.socket = gevent.socket

from ws4redis.uwsgi_runserver import uWSGIWebsocketServer  # noqa: E402

application = uWSGIWebsocketServer()
