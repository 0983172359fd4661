"""The way of a socket into the process: registered first, then looked up. Private."""

from __future__ import annotations

from typing import Any, NamedTuple

from channels_ws4redis.fanout.control import Newcomer, get_control
from channels_ws4redis.handshake.admission import Admission, admit
from channels_ws4redis.handshake.granting import PolicyFailedError
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.identity import has_renewable, marks_of, renewed
from channels_ws4redis.handshake.limits import limits
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.serving.making import make_subscriber
from channels_ws4redis.serving.subscriber_hooks import SubscriberHooks
from channels_ws4redis.serving.sweeping import get_sweep
from channels_ws4redis.store.loops import this_loop


class Registration(NamedTuple):
    """What stands for a socket until it is open."""

    newcomer: Newcomer
    #: By which orders may concern it.
    marks: bytes


class Admitted(NamedTuple):
    """What there is of a socket, or of a further subscription, that may be opened."""

    admission: Admission
    #: Its subscriber, which its owner has to release.
    hooks: SubscriberHooks
    registration: Registration


async def admit_or_release(
    scope: dict[str, Any], calls: Calls, layer: Any, later: bool = False
) -> Admitted:
    """Register a socket, make its subscriber, and find out what the socket may use.

    Takes and raises what `admit` does, and what waiting for the control channel does: a socket that
    cannot be told to go must not be let in. A subscriber whose socket is not let in is released.

    :param layer: the channel layer that the socket is going to listen on.
    :param later: whether it is a further subscription of a socket that was let in some time ago.
        What a middleware has found out then is read anew.
    :raises BusyError: also if too many ask for a socket at the same time.
    """
    # Before it waits for its turn: a middleware has found the user already.
    newcomer = get_control().expect()
    try:
        await limits().begin(calls.whom)
        if later and has_renewable(scope):
            scope = await calls.look_up(renewed, scope)
        admission, hooks, marks = await _admit_or_release(scope, calls, layer)
    except BaseException:
        get_control().forget(newcomer)
        raise
    get_sweep().begin()
    return Admitted(admission, hooks, Registration(newcomer, marks))


async def _admit_or_release(
    scope: dict[str, Any], calls: Calls, layer: Any
) -> tuple[Admission, SubscriberHooks, bytes]:
    subscriber = await make_subscriber(calls)
    if SUBPROTOCOL not in (scope.get("subprotocols") or ()):
        subscriber.listen_early(layer)
    try:
        admission = await admit(scope, subscriber, calls, get_control().hear)
        calls.know(admission.request.user)  # whom a hook may have loaded only now
        marks = marks_of(admission.request, subscriber.prefix, admission.channels)
        return admission, subscriber, marks
    except (BusyError, PolicyFailedError):
        # The client must not have to wait for a thread, or for the end of what hangs, to be told.
        this_loop().spawn(subscriber.release(), "ws4redis-release")
        raise
    except BaseException:
        await subscriber.release()
        raise
