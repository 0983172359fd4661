"""The way of a socket into the process: registered first, then looked up. Private."""

from __future__ import annotations

from typing import Any, NamedTuple

from channels_ws4redis.fanout.control import Newcomer, get_control
from channels_ws4redis.handshake.admission import Admission, admit
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.identity import marks_of
from channels_ws4redis.handshake.threads import BusyError
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.subscriber import SubscriberHooks, make_subscriber


class Place(NamedTuple):
    """Where a socket is registered until it is open."""

    newcomer: Newcomer
    #: What the server says about the socket.
    scope: dict[str, Any]
    #: By which orders may concern it.
    marks: bytes


async def admit_or_release(
    scope: dict[str, Any], calls: Calls, check_origin: bool
) -> tuple[Admission, SubscriberHooks, Place]:
    """Register a socket, make its subscriber, and find out what the socket may use.

    Takes and raises what `admit` does, and what waiting for the control channel does: a socket that
    cannot be told to go must not be let in. A subscriber whose socket is not let in is released.
    """
    newcomer = get_control().expect()
    try:
        admission, hooks, marks = await _admit_or_release(scope, calls, check_origin)
    except BaseException:
        get_control().forget(newcomer)
        raise
    return admission, hooks, Place(newcomer, scope, marks)


async def _admit_or_release(
    scope: dict[str, Any], calls: Calls, check_origin: bool
) -> tuple[Admission, SubscriberHooks, bytes]:
    subscriber = await make_subscriber(calls)
    try:
        admission = await admit(scope, subscriber, calls, check_origin, get_control().hear)
        marks = marks_of(admission.request, subscriber.prefix, admission.channels)
        return admission, subscriber, marks
    except BusyError:
        # The client must not have to wait for a thread to be told that there is none.
        this_loop().spawn(subscriber.release(), "ws4redis-release")
        raise
    except BaseException:
        await subscriber.release()
        raise
