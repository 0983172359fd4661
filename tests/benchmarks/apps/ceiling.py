"""The ceiling: one Redis subscription that loops over raw ASGI ``send`` callables.

Nothing that delivers messages through Redis to an ASGI server can do less than this per socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import redis.asyncio

Send = Callable[[dict[str, Any]], Awaitable[None]]
FACILITY = "bench"

_sends: dict[str, set[Send]] = {}
_state: dict[str, Any] = {}
_subscribing = asyncio.Lock()


async def application(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
) -> None:
    """Serve one socket."""
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    query = parse_qs(scope["query_string"].decode())
    channel = f"{FACILITY}:{query['user'][0]}" if "user" in query else FACILITY
    await _subscribe(channel)
    await receive()
    await send({"type": "websocket.accept"})
    _sends[channel].add(send)
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        _sends[channel].discard(send)


async def _subscribe(channel: str) -> None:
    async with _subscribing:
        if channel in _sends:
            return
        if not _state:
            url = os.environ["BENCH_REDIS_URL"]
            client = redis.asyncio.Redis.from_url(url, socket_timeout=None)
            _state["pubsub"] = client.pubsub(ignore_subscribe_messages=True)
            await _state["pubsub"].subscribe(channel)
            _state["reader"] = asyncio.create_task(_read())
        else:
            await _state["pubsub"].subscribe(channel)
        _sends[channel] = set()


async def _read() -> None:
    async for message in _state["pubsub"].listen():
        event = {"type": "websocket.send", "text": message["data"].decode()}
        for send in list(_sends.get(message["channel"].decode(), ())):
            await send(event)
