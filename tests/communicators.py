"""Sockets of the tests' own process: Channels' communicator is server and client in one."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.testing import WebsocketCommunicator

from channels_ws4redis.publisher import RedisPublisher

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


async def publish(message: str, facility: str = "foo", **audience: Any) -> None:
    """Publish to everybody, or to others, without storing."""
    publisher = RedisPublisher(facility=facility, **(audience or {"broadcast": True}))
    await publisher.apublish_message(message, expire=0)
