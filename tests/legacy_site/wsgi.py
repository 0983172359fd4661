"""How uWSGI serves the project with the legacy package, in one process, as the manual says."""

import os

import gevent.socket  # type: ignore[import-not-found]
import redis.connection

redis.connection.socket = gevent.socket  # type: ignore[attr-defined]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.legacy_site.settings")

from django.conf import settings  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from ws4redis.uwsgi_runserver import uWSGIWebsocketServer  # noqa: E402

_django_app = get_wsgi_application()
_websocket_app = uWSGIWebsocketServer()


def application(environ, start_response):
    """Hand sockets to the legacy package and everything else to Django."""
    if environ["PATH_INFO"].startswith(settings.WEBSOCKET_URL):
        return _websocket_app(environ, start_response)
    return _django_app(environ, start_response)
