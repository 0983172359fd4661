"""The sockets of an event loop, and handing orders to those that they concern.

A socket is registered before anybody finds out who it is. What it is looked up in may be older than
an order that arrives meanwhile. Such orders are kept, and judged once the socket is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from channels_ws4redis.fanout.doubts import COME_BACK, Doubt, Doubts, Guarded
from channels_ws4redis.fanout.hearing import Hearing
from channels_ws4redis.protocol.orders import LOOK_AT_ALL, Action, Order
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: Orders that are kept for one socket whose handshake is under way. All such sockets keep the same.
KEPT = 1000


class Newcomer:
    """Stands for a socket from the beginning of its handshake until it is known who it is."""

    __slots__ = ("_orders",)

    def __init__(self) -> None:
        self._orders: list[Order] = []

    def keep(self, order: Order) -> None:
        """Keep an order until the socket is known."""
        if len(self._orders) >= KEPT:
            self._orders = [COME_BACK]
        self._orders.append(order)

    def orders_for(self, marks: bytes) -> list[Order]:
        """Return those that concern the socket, whose marks are known now."""
        return [order for order in self._orders if order.concerns(marks)]


class Control:
    """Knows the sockets of an event loop, and what orders there are for them."""

    def __init__(self) -> None:
        self._newcomers: set[Newcomer] = set()
        self._marks: dict[Guarded, bytes] = {}
        self._hearing = Hearing(self._take)
        #: Those of its sockets that are to be looked at again.
        self.doubts = Doubts()
        #: Has all sockets looked at, as orders for them may have been missed.
        self.on_missed: Callable[[], None] = self._look_at_all

    async def hear(self) -> None:
        """Wait until orders are heard, which nearly always they are.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        await self._hearing.begin()

    async def close(self) -> None:
        """Leave no timer behind, as the event loop ends; it ends the hearing as well."""
        self._hearing.end_lingering()

    def expect(self) -> Newcomer:
        """Register a socket of which nothing has been looked up yet."""
        self._hearing.end_lingering()
        newcomer = Newcomer()
        self._newcomers.add(newcomer)
        return newcomer

    def guard(self, newcomer: Newcomer, socket: Guarded, marks: bytes) -> None:
        """Let a socket take the place of the newcomer that stood for it."""
        self._newcomers.discard(newcomer)
        self._marks[socket] = marks
        for order in newcomer.orders_for(marks):
            self._carry_out(order, [socket])

    def marks_of(self, socket: Guarded) -> bytes:
        """Return what is known of a socket; nothing, if it has gone."""
        return self._marks.get(socket, b"")

    def renew(self, socket: Guarded, marks: bytes) -> None:
        """Note what is known of a socket now."""
        if socket in self._marks:
            self._marks[socket] = marks

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._marks)

    def due(self, count: int) -> list[Guarded]:
        """Return so many sockets: those that came, or were `seen`, the longest ago."""
        return list(islice(self._marks, count))

    def seen(self, sockets: Iterable[Guarded]) -> None:
        """Note that sockets have been looked at, which now are `due` after all others."""
        for socket in sockets:
            if (marks := self._marks.pop(socket, None)) is not None:
                self._marks[socket] = marks

    def forget(self, socket: Guarded | Newcomer) -> None:
        """Forget a socket that has ended, or has not been let in; once or more."""
        if isinstance(socket, Newcomer):
            self._newcomers.discard(socket)
        else:
            self._marks.pop(socket, None)
            self.doubts.forget(socket)
        if not len(self):
            self._hearing.linger()

    def _take(self, order: Order) -> None:
        for newcomer in self._newcomers:
            newcomer.keep(order)
        if order == LOOK_AT_ALL:
            self.on_missed()
            return
        concerned = _concerned(self._marks, order)
        if concerned:
            logger.info("%s %s sockets", order.action.value, len(concerned))
            self._carry_out(order, concerned)

    def _look_at_all(self) -> None:
        self.doubts.add(list(self._marks), Doubt.MISSED)

    def _carry_out(self, order: Order, sockets: Sequence[Guarded]) -> None:
        if order.action is Action.REFRESH:
            self.doubts.add(sockets, Doubt.ORDERED if order.selectors else Doubt.MISSED)
        else:
            for socket in sockets:
                _have_obey(socket, order)


def _have_obey(socket: Guarded, order: Order) -> None:
    """Have a socket do what an order says; a fault of one must not keep others from being told."""
    try:
        socket.obey(order)
    except Exception:
        logger.exception("A socket does not do what it is ordered to, and has to come back")
        socket.obey(COME_BACK)


def _concerned(marks_of: Mapping[Guarded, bytes], order: Order) -> list[Guarded]:
    """Return the sockets that an order concerns.

    Most orders have one mark of a kind, and concern few sockets. Those are found by looking for
    its bytes, which takes two milliseconds for ten thousand sockets.
    """
    found: Iterable[tuple[Guarded, bytes]] = marks_of.items()
    for selector in order.selectors:
        if len(selector) == 1:
            (mark,) = selector
            found = [each for each in found if mark in each[1]]
    return [socket for socket, marks in found if order.concerns(marks)]


def get_control() -> Control:
    """Return the one of the running event loop."""
    return this_loop().get(Control, Control)
