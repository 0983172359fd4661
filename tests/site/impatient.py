"""The demo behind middleware that gives each frame a moment, and wants a variable of its own."""

import asyncio
from contextvars import ContextVar
from typing import Any

from tests.site.asgi import application as demo

path: ContextVar[str] = ContextVar("path")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve the demo."""

    async def impatient(frame: Any) -> None:
        assert path.get() == scope["path"]
        async with asyncio.timeout(0.5):
            await send(frame)

    if scope["type"] == "lifespan":
        raise NotImplementedError
    path.set(scope["path"])
    await demo(scope, receive, impatient)
