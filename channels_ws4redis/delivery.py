"""Storing a message and sending it to its group, on whichever channel layer the project has."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis import connections, persistence
from channels_ws4redis.conf import settings
from channels_ws4redis.connections import Command, Outcome
from channels_ws4redis.layers import RedisChannelLayer, group_name
from channels_ws4redis.messages import EVENT_TYPE, Event
from channels_ws4redis.persistence import Publication

#: The loops on which a layer's fan-outs live. The in-memory layer works on those only.
fanout_loops: WeakKeyDictionary[Any, asyncio.AbstractEventLoop] = WeakKeyDictionary()


def deliver(
    publications: Sequence[Publication], alias: str = "default", client: Any = None
) -> list[Event]:
    """Store messages and send them to their groups; return them with their offsets.

    With our own layer that is one round trip, in which Redis numbers, stores and publishes each
    message at once. With any other layer the message is stored first and sent afterwards.

    :param client: a redis-py client other than the process's own.
    :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses a message.
    """
    if not publications:
        return []
    layer = _layer(alias)
    replies = connections.run(client or connections.get_client(), _commands(layer, publications))
    events = _events(publications, replies)
    if not _atomic(layer):
        _wait_for(layer, _group_send(layer, events))
    return events


async def adeliver(publications: Sequence[Publication], alias: str = "default") -> list[Event]:
    """Store messages and send them to their groups; asyncio twin of `deliver`."""
    if not publications:
        return []
    layer = _layer(alias)
    link = await connections.get_link()
    events = _events(publications, await link.run(_commands(layer, publications)))
    if not _atomic(layer):
        sending = _group_send(layer, events)
        home = _home(layer)
        if home is None or home is _running_loop():
            await sending
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sending, home))
    return events


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


def _commands(layer: Any, publications: Sequence[Publication]) -> list[Command]:
    mirror = settings.WS4REDIS_LEGACY_SERVERS
    atomic = _atomic(layer)
    return [
        persistence.publish_command(
            publication, layer.pubsub_channel(publication.channel) if atomic else "", mirror
        )
        for publication in publications
    ]


def _events(publications: Sequence[Publication], replies: Sequence[Outcome]) -> list[Event]:
    events = []
    for publication, reply in zip(publications, replies, strict=True):
        if isinstance(reply, Exception):
            raise reply
        events.append(persistence.parse_published(publication, reply))
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
