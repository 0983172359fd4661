"""Making the subscriber of a socket, of the class that the project names. Private."""

from __future__ import annotations

import asyncio
from functools import update_wrapper

from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.serving.subscriber_hooks import SubscriberHooks
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.process import get_client
from channels_ws4redis.subscriber import RedisSubscriber, subscriber_class


async def make_subscriber(calls: Calls) -> SubscriberHooks:
    """Make the subscriber of a socket, of the class that ``WS4REDIS_SUBSCRIBER`` names.

    :param calls: run what may block for this socket.
    :raises channels_ws4redis.handshake.refusals.BusyError: if no thread is free in time.
    :raises ImportError: if there is no such class.
    :raises TypeError: if it is no subclass of `RedisSubscriber`.
    """
    cls = subscriber_class()
    if cls.__init__ is RedisSubscriber.__init__:
        return SubscriberHooks(cls(get_client()), calls)
    made: list[RedisSubscriber] = []
    try:
        await calls.run(update_wrapper(lambda: made.append(cls(get_client())), cls, updated=()))
    except asyncio.CancelledError:  # the client has gone
        await _release_late(made, calls)
        raise
    except BusyError:
        this_loop().spawn(_release_late(made, calls), "ws4redis-release")
        raise
    return SubscriberHooks(made[0], calls)


async def _release_late(made: list[RedisSubscriber], calls: Calls) -> None:
    """Release what a thread may still make although nobody waits for it any more."""
    await calls.ended()
    for subscriber in made:
        await SubscriberHooks(subscriber, calls).release()
