"""Sockets of the tests' own process: Channels' communicator is server and client in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from channels.testing import WebsocketCommunicator

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router

#: Seconds to wait for what must come.
PATIENCE = 10

#: What a server says of a client that has gone.
GONE = {"type": "websocket.disconnect", "code": 1006}


async def ended(client: WebsocketCommunicator) -> None:
    """Wait until the consumer has ended, and raise what it raises.

    The communicator's own ``wait`` cancels a consumer that does not end, and says nothing of it.
    """
    done, _ = await asyncio.wait([client.future], timeout=2 * PATIENCE)
    assert done, "the consumer has not ended"
    client.future.result()


async def leave(client: WebsocketCommunicator) -> None:
    """Have the client go, and wait until its consumer has ended."""
    await client.send_input(GONE)
    await ended(client)


@asynccontextmanager
async def opening(path: str) -> AsyncIterator[Callable[..., Awaitable[WebsocketCommunicator]]]:
    """Yield what opens sockets; in the end their clients go, and their consumers have to end.

    :param path: of those that are opened without one.
    """
    clients = []

    async def opened(
        path: str = path, application: Any = router, **kwargs: Any
    ) -> WebsocketCommunicator:
        client = WebsocketCommunicator(application, path, **kwargs)
        clients.append(client)
        assert (await client.connect(PATIENCE))[0]
        return client

    yield opened
    for client in clients:
        await leave(client)


async def publish(message: str, facility: str = "foo", **audience: Any) -> None:
    """Publish to everybody, or to others, without storing."""
    publisher = RedisPublisher(facility=facility, **(audience or {"broadcast": True}))
    await publisher.apublish_message(message, expire=0)
