"""The further subscriptions of a socket, from the client's word to their end. Private."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.handshake.derived import derive, path_for
from channels_ws4redis.handshake.hooks import REFUSALS, Calls
from channels_ws4redis.handshake.origins import require_allowed_origin
from channels_ws4redis.handshake.refusals import BusyError, RefusedError
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.client_frames import ProtocolError, Wanted
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.serving.open_subscription import Host, OpenSubscription
from channels_ws4redis.serving.registering import admit_or_release
from channels_ws4redis.serving.verdicts import Verdict, for_beginning
from channels_ws4redis.store.clients import OF_REDIS
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: What a further subscription may be refused for; everything else is a fault of some code.
_EXPECTED = (*REFUSALS, BusyError, *OF_REDIS)


class FurtherHost(Host, Protocol):
    """The socket, as its further subscriptions know it."""

    async def greeted(self) -> None:
        """Wait until the client has got its ``welcome``."""

    def refuse(self, number: int, path: str, verdict: Verdict) -> None:
        """Tell the client of a subscription that there is not."""


class Further:
    """The further subscriptions of one socket, by the ids that its client has given them.

    Each is looked up as a socket of its own would be, in a task of its own, which somebody who
    unsubscribes meanwhile cancels. Nothing of a client that has not read what it was sent is looked
    up before it has: whatever is stored would wait for it in memory.

    :param host: the socket.
    :param fanout: receives for all sockets of this event loop.
    :param outbox: takes the socket's frames.
    :param calls: those of the socket's handshake.
    """

    __slots__ = (
        "_beginning",
        "_calls",
        "_ending",
        "_fanout",
        "_host",
        "_is_origin_allowed",
        "_open",
        "_outbox",
    )

    def __init__(self, host: FurtherHost, fanout: FanOut, outbox: Outbox, calls: Calls) -> None:
        self._host = host
        self._fanout = fanout
        self._outbox = outbox
        self._calls = calls
        #: Whether the page may open sockets here; False until the first one asks.
        self._is_origin_allowed = False
        self._open: dict[int, OpenSubscription] = {}
        #: Those that begin, also if they are among the open ones by now.
        self._beginning: dict[int, asyncio.Task[None]] = {}
        #: Those that nobody wants any more, and that may still keep a thread busy.
        self._ending: set[asyncio.Task[None]] = set()

    def begin(self, wanted: Wanted, most: int) -> None:
        """Have a subscription looked up and opened, or refused.

        :param most: how many there may be.
        :raises ProtocolError: if its id is in use.
        """
        number, ids = wanted.number, self._open.keys() | self._beginning.keys()
        if number in ids:
            raise ProtocolError(f"the id {number} is in use")
        verdict = _verdict_on(len(ids), len(self._ending), most)
        if verdict is not None:
            self._refuse(wanted, verdict)
            return
        # In the context of the handshake: a middleware may have noted something there.
        task = this_loop().spawn(self._run(wanted), "ws4redis-subscribe", self._calls.context)
        self._beginning[number] = task
        task.add_done_callback(self._ending.discard)

    async def _run(self, wanted: Wanted) -> None:
        task = asyncio.current_task()
        try:
            await self._begin(wanted)
        except Exception as error:  # noqa: BLE001 # of any kind: it must not end the others
            self._fail(wanted, error)
        finally:
            if self._beginning.get(wanted.number) is task:
                del self._beginning[wanted.number]

    async def _begin(self, wanted: Wanted) -> None:
        await self._outbox.flush()
        scope = self._calls.scope
        if not self._is_origin_allowed:
            require_allowed_origin(WebSocketRequest(scope))
            self._is_origin_allowed = True
        calls = self._calls.for_another(derive(scope, wanted.facility, wanted.flags))
        admitted = await admit_or_release(calls.scope, calls, None, later=True)
        which = OpenSubscription(admitted, self._fanout, self._outbox, self._host, wanted.number)
        self._open[wanted.number] = which
        which.guard(admitted.registration)
        if which.closed:
            return  # an order has come meanwhile
        await which.join(admitted.admission.channels)
        await self._host.greeted()
        await which.enter(wanted.positions)
        calls.be_patient()
        await which.replay()

    def _fail(self, wanted: Wanted, error: Exception) -> None:
        verdict = for_beginning(error)
        if not isinstance(error, _EXPECTED):
            what = shown(wanted.facility)
            logger.error("The subscription to %s has failed", what, exc_info=error)
            verdict = verdict._replace(why="")
        which = self._open.get(wanted.number)
        if which is None:
            self._refuse(wanted, verdict)
        else:
            which.end(*verdict)

    def _refuse(self, wanted: Wanted, verdict: Verdict) -> None:
        path = path_for(self._calls.scope, wanted.facility)
        self._host.refuse(wanted.number, path, verdict)

    def find(self, number: int) -> OpenSubscription | None:
        """Return the subscription with an id, once it has been admitted."""
        return self._open.get(number)

    def has_others(self, than: OpenSubscription) -> bool:
        """Tell whether there are others that are open, or that begin."""
        return bool((self._open.keys() | self._beginning.keys()) - {than.number})

    def end(self, number: int) -> None:
        """Have a subscription be over, whether it is open or begins; any other id is ignored."""
        task, which = self._beginning.pop(number, None), self._open.pop(number, None)
        if task is not None and task is not asyncio.current_task():
            self._ending.add(task)
            task.cancel()
        if which is not None:
            which.stop()
            which.place.leave()
            this_loop().spawn(which.release(), "ws4redis-release")

    def stop(self) -> None:
        """Send nothing any more, and look up nothing; what is open may still publish."""
        for task in self._beginning.values():
            task.cancel()
        for which in self._open.values():
            which.stop()

    async def release(self) -> None:
        """Stop, and release all; to be called once."""
        self.stop()
        opened = tuple(self._open.values())
        self._open.clear()
        for which in opened:
            which.place.leave()
        releasing = [this_loop().spawn(each.release(), "ws4redis-release") for each in opened]
        if tasks := [*releasing, *self._beginning.values(), *self._ending]:
            await asyncio.wait(tasks)


def _verdict_on(count: int, ending: int, most: int) -> Verdict | None:
    """Return how one more subscription is refused; None if there is a place for it.

    :param count: those that there are.
    :param ending: those that are over, and may keep threads busy.
    """
    if most < 1:
        refusal = RefusedError("its socket takes no further subscriptions", "subscriptions")
        return Verdict(codes.REFUSED, refusal, "this socket takes no further subscriptions")
    if count >= most:
        refusal = RefusedError(
            "its socket has as many subscriptions as WS4REDIS_MAX_SUBSCRIPTIONS allows",
            "subscriptions",
        )
        return Verdict(codes.REFUSED, refusal, f"this socket takes {most} further subscriptions")
    if count + ending < most:
        return None
    busy = BusyError("subscriptions of a socket end before they are decided", "subscriptions")
    return for_beginning(busy)
