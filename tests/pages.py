"""A client with subscriptions, in the tests' own process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from channels.testing import WebsocketCommunicator

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.routing import application
from tests.communicators import GONE, PATIENCE, ended

PATH = "/ws/foo?subscribe-broadcast"


class Page:
    """A socket of the package's own protocol, whose client has said hello."""

    def __init__(self, client: WebsocketCommunicator) -> None:
        self.client = client
        #: What the server has said at the beginning.
        self.welcome: dict[str, Any] = {}

    async def send(self, *frames: dict[str, Any]) -> None:
        """Send frames, several of them as a batch."""
        body = frames[0] if len(frames) == 1 else frames
        await self.client.send_to(text_data=json.dumps(body))

    async def output(self) -> dict[str, Any]:
        """Return the server's next event."""
        event: dict[str, Any] = await self.client.receive_output(PATIENCE)
        return event

    async def receive(self) -> dict[str, Any]:
        """Return the next frame."""
        event = await self.output()
        assert "text" in event, event
        frame: dict[str, Any] = json.loads(event["text"])
        return frame

    async def closed(self) -> tuple[int, str]:
        """Return code and reason of the close frame that is next."""
        event = await self.output()
        assert event["type"] == "websocket.close", event
        return event["code"], event.get("reason", "")

    async def subscribe(self, number: int, facility: str, *flags: str, **more: Any) -> Any:
        """Subscribe, and return the answer."""
        await self.send(subscribe(number, facility, *flags, **more))
        frame = await self.receive()
        assert frame["id"] == number, frame
        return frame

    async def nothing(self) -> None:
        """Make sure that nothing has been sent that was not received."""
        await self.send({"type": "ping"})
        assert await self.receive() == {"type": "pong"}

    async def leave(self) -> None:
        """Go, and wait until the consumer has ended."""
        await self.client.send_input(GONE)
        await ended(self.client)


def subscribe(number: int, facility: str, *flags: str, **more: Any) -> dict[str, Any]:
    """Return the frame that subscribes, to broadcasts if no flags are named."""
    flags = flags or ("subscribe-broadcast",)
    return {
        "type": "subscribe", "id": number, "facility": facility, "flags": list(flags)
    } | more  # fmt: skip


def unsubscribe(number: int = 0) -> dict[str, Any]:
    """Return the frame that unsubscribes."""
    return {"type": "unsubscribe"} | ({"id": number} if number else {})


async def connected(path: str = PATH, app: Any = application, **kwargs: Any) -> Page:
    """Open a socket that has still to say hello."""
    page = Page(WebsocketCommunicator(app, path, subprotocols=[SUBPROTOCOL], **kwargs))
    assert (await page.client.connect(PATIENCE))[0]
    return page


@asynccontextmanager
async def opened(path: str = PATH, app: Any = application, **kwargs: Any) -> AsyncIterator[Page]:
    """Open a socket and say hello; in the end it has to end well."""
    page = await connected(path, app, **kwargs)
    await page.send({"type": "hello"})
    page.welcome = await page.receive()
    assert page.welcome["type"] == "welcome"
    try:
        yield page
    finally:
        if not page.client.future.done():
            await page.leave()


async def gathered(page: Page, count: int) -> dict[int, dict[str, Any]]:
    """Return so many answers, by id."""
    return {frame["id"]: frame for frame in [await page.receive() for _ in range(count)]}


async def until(condition: Any) -> None:
    """Wait until something is true of which nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.005)
