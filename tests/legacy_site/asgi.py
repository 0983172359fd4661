"""The entry point of the ported project."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.legacy_site.ported")
http_application = get_asgi_application()

import channels_ws4redis.routing  # noqa: E402

application = ProtocolTypeRouter(
    {"http": http_application, "websocket": channels_ws4redis.routing.application}
)
