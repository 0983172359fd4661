"""An application that does with a peer what its client asks for, on any server, without Redis.

The path says what is put around the server's ``send``. The application tells first which peer it
has found; then a client's message is an order and a number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from channels.sessions import InstanceSessionWrapper

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.servers import AsgiEvent, Send, behind

#: Set around an application, as request ids of logging are.
request_id: ContextVar[str] = ContextVar("request_id")
depth: ContextVar[int] = ContextVar("depth", default=0)

SCOPE = {"type": "websocket", "cookies": {}, "session": {}}


class Talkative(InstanceSessionWrapper):
    """Session middleware of a project's own, which may do anything."""

    async def send(self, frame: AsgiEvent) -> None:
        """Pass a frame on."""
        await asyncio.sleep(0)
        await self.real_send(frame)


def timeout(send: Send) -> Send:
    """Give each frame ten seconds."""

    async def wrapped(frame: AsgiEvent) -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            await send(frame)

    return wrapped


def variables(send: Send) -> Send:
    """Look at one context variable, and set and reset another around each frame."""

    async def wrapped(frame: AsgiEvent) -> None:
        assert request_id.get() == "mine"
        token = depth.set(depth.get() + 1)
        await asyncio.sleep(0)
        await send(frame)
        depth.reset(token)

    return wrapped


def future(send: Send) -> Send:
    """Answer with a Future."""
    return lambda frame: asyncio.ensure_future(_run(send(frame)))


async def _run(sending: Awaitable[None]) -> None:
    await sending


class Lazy:
    """An awaitable that has ``__await__`` and nothing else, as servers in Rust make them."""

    def __init__(self, awaitable: Awaitable[None]) -> None:
        self.awaitable = awaitable

    def __await__(self) -> Any:
        return self.awaitable.__await__()


#: What a path puts around the server's ``send``.
WRAPPERS: dict[str, Callable[[Send], Send]] = {
    "own": lambda send: send,
    "session": lambda send: InstanceSessionWrapper(SCOPE, send).send,
    "talkative": lambda send: Talkative(SCOPE, send).send,
    "timeout": timeout,
    "variables": variables,
    "future": future,
    "lazy": lambda send: lambda frame: Lazy(send(frame)),
}


async def application(scope: Any, receive: Any, send: Send) -> None:
    """Follow orders."""
    if scope["type"] != "websocket":
        raise NotImplementedError
    request_id.set("mine")
    send = WRAPPERS[scope["path"].strip("/")](send)
    peer = behind(send)
    task = asyncio.current_task()
    assert task is not None
    peer.on_stop(task, task.cancel)
    outbox = Outbox(peer, 100_000, 10**9, lambda: None)
    outbox.put(Frame(json.dumps([type(peer).__name__, peer.writable])))
    await receive()
    await send({"type": "websocket.accept"})
    outbox.open()
    while (event := await receive())["type"] == "websocket.receive":
        order, _, number = event["text"].partition(" ")
        if order == "count":
            # In a task that is not the socket's, as the fan-out does.
            await asyncio.create_task(count(outbox, int(number)))
        elif order == "close":
            outbox.close()
            await peer.close(int(number), 1)
        elif order == "abort":
            peer.abort()
    outbox.close()
    peer.release()


async def count(outbox: Outbox, top: int) -> None:
    """Send numbers, with pauses in which what waits may go out."""
    for number in range(top):
        outbox.put(Frame(f"{number:06}" + "x" * 1000))
        if number % 100 == 0:
            await asyncio.sleep(0.001)
