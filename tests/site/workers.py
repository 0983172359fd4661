"""Consumers that work in the background, as the manual of Channels writes them."""

from __future__ import annotations

import os
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter


def report(message: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a message, and who tells it."""
    return {"type": "done", "number": message["number"], "process": os.getpid()}


class Thumbnails(SyncConsumer):
    """Answers whoever has sent a message, from a thread."""

    def generate(self, message: dict[str, Any]) -> None:
        """Say that it is done."""
        async_to_sync(self.channel_layer.send)(message["reply"], report(message))


class Prints(AsyncConsumer):
    """The same, on the event loop."""

    async def generate(self, message: dict[str, Any]) -> None:
        """Say that it is done."""
        await self.channel_layer.send(message["reply"], report(message))


application = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({"thumbnails": Thumbnails.as_asgi(), "prints": Prints.as_asgi()})}
)
