"""The consumer of the Channels tutorial: every socket joins the group itself."""

from __future__ import annotations

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.apps.settings")
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import re_path  # noqa: E402


class ChatConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Send what the group is sent: everybody's, or the user's own if the client asks for that."""

    async def connect(self) -> None:
        facility = self.scope["url_route"]["kwargs"]["facility"]
        if b"subscribe-user" in self.scope["query_string"]:
            self.group = f"{facility}_{self.scope['user'].get_username()}"
        else:
            self.group = facility
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["message"])


class BareConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Accept, and nothing else: the least memory that a Channels consumer takes."""


application = ProtocolTypeRouter(
    {
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(
                URLRouter([re_path(r"^ws/(?P<facility>\w+)$", ChatConsumer.as_asgi())])
            )
        )
    }
)
#: Nothing around it either: no origin check, no session, no user.
bare = ProtocolTypeRouter({"websocket": BareConsumer.as_asgi()})
