"""The tortured site: this package, or the consumer of the Channels tutorial."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()


class StockConsumer(AsyncWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    """What the tutorial of Channels tells to write."""

    async def connect(self) -> None:
        """Join the group."""
        self.group = self.scope["url_route"]["kwargs"]["facility"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave the group."""
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Pass a message on."""
        await self.send(text_data=event["message"])


def _websocket_application() -> Any:
    if settings.STOCK:  # type: ignore[misc] # of our own settings module
        return URLRouter([path("ws/<facility>", StockConsumer.as_asgi())])
    from channels_ws4redis.routing import application  # noqa: PLC0415 # not with the stock one

    return application


application = ProtocolTypeRouter(
    {"http": django_application, "websocket": _websocket_application()}
)
