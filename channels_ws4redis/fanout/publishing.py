"""Storing a message and sending it to its group, on whichever channel layer the project has."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.conf import settings
from channels_ws4redis.layers import RedisChannelLayer, group_name
from channels_ws4redis.protocol.messages import EVENT_TYPE, Event
from channels_ws4redis.store import runner as links
from channels_ws4redis.store.clients import get_client
from channels_ws4redis.store.commands import Publication, parse_published, publish_command
from channels_ws4redis.store.scripts import Command, Outcome

#: The loops on which a layer's fan-outs live. The in-memory layer works on those only.
fanout_loops: WeakKeyDictionary[Any, asyncio.AbstractEventLoop] = WeakKeyDictionary()

#: Channels that one run of the script serves: few enough not to hold up Redis for a millisecond.
_channels_at_once = 50


def deliver(publication: Publication, alias: str = "default", client: Any = None) -> None:
    """Store a message and send it to its groups.

    With our own layer that is one round trip, in which Redis numbers, stores and publishes the
    message at once. With any other layer it is stored first and sent afterwards.

    :param client: a redis-py client other than the process's own.
    :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses the message on a
        channel; the others have got it then.
    """
    if not publication.channels:
        return
    layer, parts = _layer(alias), _parts(publication)
    client = client or get_client()
    replies = links.run(client, _commands(layer, parts))
    for part in _refused(parts, replies):
        deliver(part, alias, client)
    events = _events(layer, parts, replies)
    if events:
        _wait_for(layer, _group_send(layer, events))


async def adeliver(publication: Publication, alias: str = "default") -> None:
    """Store a message and send it to its groups; asyncio twin of `deliver`."""
    if not publication.channels:
        return
    layer, parts = _layer(alias), _parts(publication)
    link = await links.get_link()
    replies = await link.run(_commands(layer, parts))
    for part in _refused(parts, replies):
        await adeliver(part, alias)
    events = _events(layer, parts, replies)
    if events:
        sending = _group_send(layer, events)
        home = _home(layer)
        if home is None or home is _running_loop():
            await sending
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sending, home))


def _layer(alias: str) -> Any:
    layer = get_channel_layer(alias)
    if layer is None:
        raise ImproperlyConfigured(
            "There is no channel layer; add to the settings: CHANNEL_LAYERS = "
            "{'default': {'BACKEND': 'channels_ws4redis.layers.RedisChannelLayer'}}"
        )
    return layer


def _atomic(layer: Any) -> bool:
    return isinstance(layer, RedisChannelLayer) and layer.stores


def _parts(publication: Publication) -> list[Publication]:
    """Split a publication into those that one run of the script serves each."""
    channels, size = publication.channels, _channels_at_once
    if len(channels) <= size:
        return [publication]
    return [
        publication._replace(channels=channels[first : first + size])
        for first in range(0, len(channels), size)
    ]


def _commands(layer: Any, parts: Sequence[Publication]) -> list[Command]:
    mirror = settings.WS4REDIS_LEGACY_SERVERS
    affixes = layer.pubsub_affixes(mirror) if _atomic(layer) else None
    return [publish_command(part, affixes, mirror) for part in parts]


def _refused(parts: list[Publication], replies: list[Outcome]) -> list[Publication]:
    """Take out, and return, what was refused before it ran for having channels of different slots.

    A Redis in cluster mode does that, be it of one node only. It is given one at a time from then.
    """
    global _channels_at_once
    refused = [
        index
        for index, reply in enumerate(replies)
        # By its text: redis-py 5 makes it a plain ResponseError, later ones take the code off.
        if isinstance(reply, redis.exceptions.ResponseError)
        and "to the same slot" in str(reply)
        and len(parts[index].channels) > 1
    ]
    if refused:
        _channels_at_once = 1
    taken = [parts[index] for index in refused]
    for index in reversed(refused):
        del parts[index], replies[index]
    return taken


def _events(layer: Any, parts: Sequence[Publication], replies: Sequence[Outcome]) -> list[Event]:
    """Return what the layer has still to send; raise the first error among the replies."""
    events = []
    for part, reply in zip(parts, replies, strict=True):
        if isinstance(reply, Exception):
            raise reply
        if not _atomic(layer):
            events += parse_published(part, reply)
    return events


async def _group_send(layer: Any, events: Sequence[Event]) -> None:
    for event in events:
        message = {
            "type": EVENT_TYPE,
            "channel": event.channel,
            "payload": event.payload,
            "epoch": event.epoch,
            "offset": event.offset,
            "sender": event.sender,
        }
        await layer.group_send(group_name(layer, event.channel), message)


def _wait_for(layer: Any, sending: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine of a layer from synchronous code, on a loop that lives on."""
    home = _home(layer)
    if home is None:
        asyncio.run_coroutine_threadsafe(sending, _background_loop()).result()
    elif home is _running_loop():
        # We hold up the very loop that would have to do it; it does so in its next turn, in order.
        task = home.create_task(sending)
        _sending.add(task)
        task.add_done_callback(_sending.discard)
    else:
        asyncio.run_coroutine_threadsafe(sending, home).result()


def _home(layer: Any) -> asyncio.AbstractEventLoop | None:
    """Return the only loop on which a layer works, None if it works on any."""
    home = fanout_loops.get(layer) if isinstance(layer, InMemoryChannelLayer) else None
    return home if home is not None and home.is_running() else None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


#: Keeps tasks that nobody awaits from being collected.
_sending: set[asyncio.Task[None]] = set()

_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def _background_loop() -> asyncio.AbstractEventLoop:
    """Return the process's event loop for layers that need one, running in a daemon thread."""
    global _loop
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="ws4redis-layer", daemon=True).start()
        return _loop


def _after_fork() -> None:
    """Forget all loops in a forked child: their threads do not exist there."""
    global _loop, _loop_lock
    _loop, _loop_lock = None, threading.Lock()
    fanout_loops.clear()


os.register_at_fork(after_in_child=_after_fork)
