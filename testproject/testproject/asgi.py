"""The demo's ASGI application, for daphne, uvicorn and runserver alike."""

import os

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
http_application = get_asgi_application()

# Imported after get_asgi_application(), which loads the apps.
import channels_ws4redis.routing  # noqa: E402

if settings.DEBUG:
    # A server started by hand serves the static files as runserver does.
    http_application = ASGIStaticFilesHandler(http_application)

application = ProtocolTypeRouter(
    {"http": http_application, "websocket": channels_ws4redis.routing.application}
)
