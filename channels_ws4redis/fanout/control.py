"""Hearing the control channel, and handing orders to the sockets that they concern.

Every event loop that has sockets hears the control channel through its fan-out, as a socket would.
So an order is heard once, and in its turn; one that was published while the link to Redis was down
is made good from the history; and where that is too short, all sockets are looked at again.

A socket is registered before anybody finds out who it is. What it is looked up in may be older than
an order that arrives meanwhile. Such orders are kept, and judged once the socket is known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import redis
from channels.layers import channel_layers, get_channel_layer

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.doubts import COME_BACK, Doubts, Guarded
from channels_ws4redis.fanout.groups import FanOut, get_fanout
from channels_ws4redis.fanout.sockets import Entry
from channels_ws4redis.protocol.history import Lost, Outcome
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.protocol.names import control_channel
from channels_ws4redis.protocol.orders import LOOK_AT_ALL, Action, Order, OrderError, parse_order
from channels_ws4redis.protocol.texts import reason_of
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
        #: Hears the control channel for us, or is about to; None while nobody does.
        self._fanout: FanOut | None = None
        self._hears = False
        self._joining: asyncio.Task[Exception | None] | None = None
        self._doubts = Doubts()

    # Sockets

    def expect(self) -> Newcomer:
        """Register a socket of which nothing has been looked up yet."""
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

    def forget(self, socket: Guarded | Newcomer) -> None:
        """Forget a socket that has ended, or has not been let in; once or more."""
        if isinstance(socket, Newcomer):
            self._newcomers.discard(socket)
        else:
            self._marks.pop(socket, None)
            self._doubts.forget(socket)
        if not self._newcomers and not self._marks:
            self._stop_hearing()

    # Hearing

    async def hear(self) -> None:
        """Wait until this loop hears the control channel, which nearly always it does.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        if self._hears and self._fanout is not None:
            await self._fanout.put_first(channel())
            return
        if self._joining is None:
            self._joining = this_loop().spawn(self._join(), "ws4redis-control")
        error = await asyncio.shield(self._joining)
        if error is not None:
            raise error

    async def _join(self) -> Exception | None:
        """Join the control channel, once for all who connect at the same time."""
        channels = [channel()]
        fanout = self._fanout = get_fanout(get_channel_layer(control_layer()))
        try:
            await fanout.join(self, channels)
            await fanout.enter(self, channels, self._start)
            # Nothing may be delivered that came after an order which is still to be made good.
            await fanout.put_first(channels[0])
        except (redis.exceptions.RedisError, OSError) as error:
            self._joining = None
            self._stop_hearing()
            return error
        self._joining, self._hears = None, True
        return None

    def _stop_hearing(self) -> None:
        if self._joining is not None:
            self._joining.cancel()
        if self._fanout is not None:
            self._fanout.leave(self)
        self._joining, self._fanout, self._hears = None, None, False

    def _start(self, entries: Sequence[Entry]) -> None:
        """Begin here: what was ordered before is of no concern to sockets that come after it."""
        for _, after in entries:
            for event in after:
                self.deliver(event)

    def deliver(self, event: Event) -> None:
        """Take an order from the control channel, and carry it out."""
        if not event.offset or event.sender:
            return  # a foreign program's, or a client's whom the project lets name a channel
        try:
            order = parse_order(event.payload)
        except OrderError as error:
            logger.warning(
                "What stands on the control channel is no order, so all sockets are looked at "
                "again: %s",
                reason_of(error),
            )
            order = LOOK_AT_ALL
        self._take(order)

    def recover(self, items: Outcome) -> None:
        """Take the orders that were missed; if some of them are lost, look at all sockets again."""
        for item in items:
            if isinstance(item, Lost):
                self._take(LOOK_AT_ALL)
            else:
                self.deliver(item)

    def end(self, error: Exception) -> None:
        """Have all sockets come back, as Redis refuses the channel: nobody could cut them off."""
        if self._joining is not None:
            return  # it fails for the same reason, and those who wait for it are told
        logger.error("Redis refuses the control channel, so all sockets end: %s", reason_of(error))
        self._take(COME_BACK)
        self._stop_hearing()

    def _take(self, order: Order) -> None:
        for newcomer in self._newcomers:
            newcomer.keep(order)
        concerned = self._concerned(order)
        if concerned:
            logger.info("%s %s sockets", order.action.value, len(concerned))
            self._carry_out(order, concerned)

    def _concerned(self, order: Order) -> list[Guarded]:
        """Return the sockets that an order concerns.

        Most orders have one mark of a kind, and concern few sockets. Those are found by looking for
        its bytes, which takes two milliseconds for ten thousand sockets.
        """
        found: Iterable[tuple[Guarded, bytes]] = self._marks.items()
        for selector in order.selectors:
            if len(selector) == 1:
                (mark,) = selector
                found = [each for each in found if mark in each[1]]
        return [socket for socket, marks in found if order.concerns(marks)]

    def _carry_out(self, order: Order, sockets: Sequence[Guarded]) -> None:
        if order.action is Action.REFRESH:
            self._doubts.add(sockets, urgent=bool(order.selectors))
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


def control_layer() -> str:
    """Return the alias of the layer that carries orders: the default one, or the first there is."""
    aliases = list(channel_layers.configs)
    return "default" if "default" in aliases or not aliases else aliases[0]


def channel() -> str:
    """Return the name of the control channel."""
    prefix = settings.WS4REDIS_PREFIX
    return control_channel(f"{prefix}:" if prefix else "")


def get_control() -> Control:
    """Return the one of the running event loop."""
    return this_loop().get(Control, Control)
