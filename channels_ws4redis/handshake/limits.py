"""How much one client may have of a process: sockets, handshakes, messages, and room in Redis.

One client is the user of a socket. It is the address where nobody is logged in, or where nothing of
the socket looks at the user. Behind a `Proxy` there are any number of clients: they share the
room in Redis, and nothing else is bounded for them together. Each process counts for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Hashable

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake import deadlines, remarks
from channels_ws4redis.handshake.addresses import Proxy
from channels_ws4redis.handshake.buckets import Bucket, Charge, Pace, overdrawn, pay
from channels_ws4redis.handshake.policies import NO_OPTIONS, Options
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.loops import this_loop

#: Seconds that a message waits for its turn at most. Servers give up on a client whose answer to a
#: ping they do not read for 20.
MESSAGE_PATIENCE = 10.0

#: Seconds' worth that a client, or a process, may use at once if it has used nothing before.
HANDSHAKE_BURST, MESSAGE_BURST, FILL_BURST = 2.0, 10.0, 384.0

#: The share of all handshakes that one client gets, and how many times the messages of one socket
#: all sockets of a client may send.
HANDSHAKE_SHARE, MESSAGE_SHARE = 0.25, 10

#: Bytes that the first message on a channel costs besides its own. A stream takes 4 KiB in Redis
#: however short it is, and a channel's position 400 bytes for a day.
CHANNEL_BYTES = 4096

#: Channels of a client that are remembered, which is more than it can pay for while that counts;
#: and clients before those that rest are forgotten. What is forgotten has to be paid for anew.
MAX_CHANNELS, MAX_RESTING = 20_000, 100


class Room:
    """What one client has put into Redis.

    A channel keeps a bounded part of what is published on it, and so a busy chat takes no more room
    than its first messages have taken.
    """

    __slots__ = ("_channels", "bucket")

    def __init__(self) -> None:
        self.bucket = Bucket()
        #: By channel, the bytes that were paid for, and until when that counts: what is published
        #: later stays for longer than what has been paid.
        self._channels: dict[str, tuple[int, float]] = {}

    def cost(self, channel: str, size: int, now: float) -> int:
        """Return the bytes that a message of this size adds to a channel."""
        paid, _ = self._paid(channel, now, 0)
        return _room(paid, size) - paid + (0 if paid else CHANNEL_BYTES)

    def note(self, channel: str, size: int, now: float, expire: int) -> None:
        """Remember that a message has been paid for, which stays for so many seconds."""
        paid, until = self._paid(channel, now, expire)
        self._channels.pop(channel, None)
        self._channels[channel] = _room(paid, size), until
        if len(self._channels) > MAX_CHANNELS:
            del self._channels[next(iter(self._channels))]

    def _paid(self, channel: str, now: float, expire: int) -> tuple[int, float]:
        paid, until = self._channels.get(channel, (0, 0.0))
        return (paid, until) if now < until else (0, now + expire)


def _room(paid: int, size: int) -> int:
    """Return the bytes that a channel keeps after a message: its history, or the last message."""
    return max(paid, size, min(paid + size, settings.WS4REDIS_HISTORY_BYTES))


class Tally:
    """What one client has in this process."""

    __slots__ = ("handshakes", "messages", "room", "sockets")

    def __init__(self) -> None:
        self.sockets = 0
        # Each is made when it is needed. Most clients only listen, and a user is known after the
        # handshake.
        self.handshakes: Bucket | None = None
        self.messages: Bucket | None = None
        self.room: Room | None = None

    def rests(self, now: float) -> bool:
        """Tell whether a tally that is made anew may take its place."""
        room = None if self.room is None else self.room.bucket
        buckets = (self.handshakes, self.messages, room)
        return not self.sockets and all(each is None or each.full_at <= now for each in buckets)


class Limits:
    """What the clients of one event loop have. A process that a server runs has one loop."""

    def __init__(self) -> None:
        self.sockets = 0
        self._handshakes = Bucket()
        self._tallies: dict[Hashable, Tally] = {}
        #: So many tallies are looked through for those that rest.
        self._many = MAX_RESTING

    def tally_of(self, whom: Hashable) -> Tally:
        """Return what one client has."""
        tally = self._tallies.get(whom)
        if tally is None:
            if len(self._tallies) >= self._many:
                self._forget_resting(time.monotonic())
            tally = self._tallies[whom] = Tally()
        return tally

    def _forget_resting(self, now: float) -> None:
        for whom, tally in tuple(self._tallies.items()):
            if tally.rests(now):
                del self._tallies[whom]
        self._many = max(MAX_RESTING, 2 * len(self._tallies))

    async def begin(self, whom: Hashable) -> None:
        """Have a handshake wait for its turn.

        :param whom: the client, as far as is known before anybody has asked who it is.
        :raises BusyError: if it would have to wait for too long.
        """
        rate = settings.WS4REDIS_HANDSHAKE_RATE
        if rate is None:
            return
        name, now = "WS4REDIS_HANDSHAKE_RATE", time.monotonic()
        pace = Pace(rate, HANDSHAKE_BURST, deadlines.TURN)
        charges = []
        if not isinstance(whom, Proxy):
            share = pace._replace(rate=rate * HANDSHAKE_SHARE)
            tally = self.tally_of(whom)
            if tally.handshakes is None:
                tally.handshakes = Bucket()
            charges.append(Charge(tally.handshakes, 1, share, name))
            if overdrawn(charges, now):
                raise BusyError(
                    "one client opens more sockets than a fourth of WS4REDIS_HANDSHAKE_RATE",
                    "handshakes of a client",
                )
        charges.append(Charge(self._handshakes, 1, pace, name))
        if overdrawn(charges, now):
            raise BusyError(
                "more sockets are opened in this process than WS4REDIS_HANDSHAKE_RATE allows",
                "handshakes",
            )
        seconds = pay(charges, now)
        if seconds:
            await asyncio.sleep(seconds)

    def enter(self, whom: Hashable) -> Tally:
        """Count one more socket of a client.

        :raises BusyError: if there are as many as may be.
        """
        if _is_reached(settings.WS4REDIS_MAX_SOCKETS, self.sockets):
            raise BusyError(
                f"this process has {self.sockets} sockets; WS4REDIS_MAX_SOCKETS allows no more",
                "sockets",
            )
        tally = self.tally_of(whom)
        is_address = isinstance(whom, str)
        if is_address and _is_reached(settings.WS4REDIS_MAX_SOCKETS_PER_ADDRESS, tally.sockets):
            raise BusyError(
                f"the address {whom} has {tally.sockets} sockets in this process; "
                "WS4REDIS_MAX_SOCKETS_PER_ADDRESS allows no more",
                "sockets of an address",
            )
        is_user = not is_address and not isinstance(whom, Proxy)
        if is_user and _is_reached(settings.WS4REDIS_MAX_SOCKETS_PER_USER, tally.sockets):
            raise BusyError(
                f"one user has {tally.sockets} sockets in this process; "
                "WS4REDIS_MAX_SOCKETS_PER_USER allows no more",
                "sockets of a user",
            )
        self.sockets += 1
        tally.sockets += 1
        return tally


def _is_reached(limit: int | None, count: int) -> bool:
    return limit is not None and count >= limit


def limits() -> Limits:
    """Return what the clients of the running event loop have."""
    return this_loop().get("limits", Limits)


class Place:
    """The place of one socket among all that count for the same client.

    :param whom: the client.
    :param options: those of the facility of the socket.
    """

    __slots__ = ("_limits", "_messages", "_options", "_tally", "_whom")

    def __init__(self, whom: Hashable, options: Options = NO_OPTIONS) -> None:
        self._whom = whom
        self._options = options
        self._limits = limits()
        #: What the client has, while the socket counts.
        self._tally: Tally | None = None
        self._messages: Bucket | None = None

    @property
    def max_message(self) -> int:
        """Bytes that the client may send in one message."""
        limit = settings.WS4REDIS_MAX_MESSAGE
        return min(limit, self._options.max_message_bytes or limit)

    def take(self) -> None:
        """Count the socket from now on.

        :raises BusyError: if there are as many as may be.
        """
        self._tally = self._limits.enter(self._whom)

    def leave(self) -> None:
        """Count the socket no longer."""
        tally, self._tally = self._tally, None
        if tally is not None:
            self._limits.sockets -= 1
            tally.sockets -= 1

    async def publish(self, size: int, channels: Collection[str]) -> None:
        """Have a message of the client wait until it may be published.

        :param size: bytes.
        :param channels: the names of those that it goes to.
        :raises BusyError: if it would have to wait for too long.
        """
        tally, now = self._tally, time.monotonic()
        if tally is None:
            return
        if tally.room is None:
            tally.room = Room()
        charges = self._rates(tally)
        stored = channels if self._seconds else ()
        if stored:
            charges += self._fill(tally.room, size, stored, now)
        if setting := overdrawn(charges, now):
            if isinstance(self._whom, Proxy) and setting == "WS4REDIS_FILL_RATE":
                raise BusyError(
                    f"its client and all others behind the proxy {shown(self._whom.host)} publish "
                    f"more than {setting} allows; WS4REDIS_TRUSTED_PROXIES tells them apart",
                    "messages behind a proxy",
                )
            raise BusyError(f"its client publishes more than {setting} allows", "messages")
        seconds = pay(charges, now)
        for channel in stored:
            tally.room.note(channel, size, now, self._seconds)
        if seconds:
            remarks.tell_of_slowing(self._whom)
            await asyncio.sleep(seconds)

    @property
    def _seconds(self) -> int:
        """Seconds for which a message stays in Redis, unless the project's subscriber says more."""
        if not self._options.keep:
            return 0
        expire, history = self._options.expire, self._options.history_expire
        expire = settings.WS4REDIS_EXPIRE if expire is None else expire
        return max(expire, settings.WS4REDIS_HISTORY_EXPIRE if history is None else history)

    def _rates(self, tally: Tally) -> list[Charge]:
        """Return what a message costs by being one."""
        rate = settings.WS4REDIS_PUBLISH_RATE
        if rate is None:
            return []
        if self._messages is None:
            self._messages = Bucket()
        name, pace = "WS4REDIS_PUBLISH_RATE", Pace(rate, MESSAGE_BURST, MESSAGE_PATIENCE)
        charges = [Charge(self._messages, 1, pace, name)]
        if not isinstance(self._whom, Proxy):
            if tally.messages is None:
                tally.messages = Bucket()
            of_all = pace._replace(rate=rate * MESSAGE_SHARE)
            charges.append(Charge(tally.messages, 1, of_all, name))
        return charges

    def _fill(self, room: Room, size: int, channels: Collection[str], now: float) -> list[Charge]:
        """Return what a message costs by being stored."""
        rate = settings.WS4REDIS_FILL_RATE
        if rate is None:
            return []
        cost = sum(room.cost(channel, size, now) for channel in channels)
        pace = Pace(rate, FILL_BURST, MESSAGE_PATIENCE)
        return [Charge(room.bucket, cost, pace, "WS4REDIS_FILL_RATE")]
