"""Heartbeats and pings: who gets them, and that they leave time to others."""

from __future__ import annotations

import asyncio
import json

import pytest

from channels_ws4redis.fanout import pulse, sockets
from tests.listeners import FOO, Listener

#: Speaks to Redis through the package.
pytestmark = pytest.mark.server


async def test_heartbeats_and_pings(fanout, settings, monkeypatch):
    """Raw clients get the heartbeat, clients of the protocol a ping, who is not yet live none."""
    monkeypatch.setattr(pulse, "HEARTBEAT_INTERVAL", 0.01)
    monkeypatch.setattr(sockets, "PING_INTERVAL", 0.01)
    settings.WS4REDIS_HEARTBEAT = "--heartbeat--"
    waiting = Listener(fanout)
    await fanout.join(waiting.socket, [FOO])
    raw = await Listener(fanout).join(FOO)
    client = await Listener(fanout, {FOO: "broadcast"}).join(FOO)
    assert [await raw.receive() for _ in range(2)] == ["--heartbeat--"] * 2
    assert json.loads(await client.receive()) == {"type": "ping"}
    assert waiting.queue.empty()


async def test_many_get_them_part_by_part(fanout, settings, monkeypatch):
    """Others have their turns in between."""
    monkeypatch.setattr(pulse, "HEARTBEAT_INTERVAL", 0.01)
    monkeypatch.setattr(pulse, "AT_ONCE", 3)
    settings.WS4REDIS_HEARTBEAT = "--heartbeat--"
    listeners = [await Listener(fanout).join(FOO) for _ in range(10)]
    begun = before = sum(listener.queue.qsize() for listener in listeners)
    at_once, count = 0, begun
    while count < begun + 20:
        await asyncio.sleep(0)
        count = sum(listener.queue.qsize() for listener in listeners)
        at_once, before = max(at_once, count - before), count
    assert at_once == 3
