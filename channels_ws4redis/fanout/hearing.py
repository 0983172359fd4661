"""Hearing the control channel, on which processes tell each other whom to cut off or look at again.

Every event loop that has sockets, or has had some a moment ago, hears it through its fan-out, as a
socket would. So an order is heard once, and in its turn; one that was published while the link to
Redis was down is made good from the history; and where that is too short, all sockets are looked at
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from channels.layers import channel_layers, get_channel_layer

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.doubts import COME_BACK
from channels_ws4redis.fanout.groups import FanOut, get_fanout
from channels_ws4redis.fanout.held import Entry
from channels_ws4redis.protocol.history import Lost, Outcome
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.protocol.names import control_channel
from channels_ws4redis.protocol.orders import LOOK_AT_ALL, Order, OrderError, parse_order
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.store.clients import OF_REDIS
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: Seconds for which the control channel is heard after the last socket has gone. Or each stranger
#: who is refused by an idle process would cost Redis a subscription, and its end.
LINGER = 60.0


class Hearing:
    """Hears the control channel for an event loop.

    :param take: called with each order, in its turn.
    """

    def __init__(self, take: Callable[[Order], None]) -> None:
        self._take = take
        #: Hears the control channel for us, or is about to; None while nobody does.
        self._fanout: FanOut | None = None
        self._hears = False
        self._joining: asyncio.Task[Exception | None] | None = None
        #: Ends the hearing; None while there are sockets, and while nobody hears.
        self._lingering: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
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
        except OF_REDIS as error:
            self._joining = None
            self.stop()
            return error
        self._joining, self._hears = None, True
        return None

    def linger(self) -> None:
        """Hear for a moment more, as the last socket has gone."""
        if self._fanout is not None:
            self.end_lingering()
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self.stop)

    def end_lingering(self) -> None:
        """Leave no timer behind: there are sockets again, or the event loop ends."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def stop(self) -> None:
        """Hear no more."""
        self.end_lingering()
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
        """Have all sockets come back: nobody could cut them off, as Redis refuses the channel."""
        if self._joining is not None:
            return  # it fails for the same reason, and those who wait for it are told
        logger.error(
            "The control channel cannot be heard, so all sockets end: %s", reason_of(error)
        )
        self._take(COME_BACK)
        self.stop()


def control_layer() -> str:
    """Return the alias of the layer that carries orders: the default one, or the first there is."""
    aliases = list(channel_layers.configs)
    return "default" if "default" in aliases or not aliases else aliases[0]


def channel() -> str:
    """Return the name of the control channel."""
    prefix = settings.WS4REDIS_PREFIX
    return control_channel(f"{prefix}:" if prefix else "")
