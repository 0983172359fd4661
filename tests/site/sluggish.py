"""The demo on a server that takes a millisecond for each frame, in which nothing else goes on."""

import asyncio
import time
from typing import Any

from tests.site.asgi import application as demo


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Hold the event loop up with each frame."""

    async def slowly(frame: Any) -> None:
        if frame["type"] == "websocket.send":
            time.sleep(0.001)  # noqa: ASYNC251 # this is what it is for
            await asyncio.sleep(0)
        await send(frame)

    await demo(scope, receive, slowly)
