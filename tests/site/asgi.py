"""The ASGI application, written as the README tells a project to write it."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

import channels_ws4redis.routing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.site.settings")

application = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": channels_ws4redis.routing.application}
)
