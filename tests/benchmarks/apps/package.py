"""This package, as its documentation tells a project to install it."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.apps.settings")
django.setup()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

import channels_ws4redis.routing  # noqa: E402

application = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": channels_ws4redis.routing.application}
)
