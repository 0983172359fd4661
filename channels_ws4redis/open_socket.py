"""A socket that has been admitted: what it hears, and what it does for its client. Private."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Sequence
from contextlib import suppress

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Entry, Socket
from channels_ws4redis.handshake.admission import Admission
from channels_ws4redis.handshake.limits import Place
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.messages import Position, is_heartbeat, json_frame
from channels_ws4redis.protocol.names import channel_labels
from channels_ws4redis.registering import Registration
from channels_ws4redis.replaying import replay_by_hook
from channels_ws4redis.revoking import End, Revocable, Revoked
from channels_ws4redis.servers import ClientGoneError, Incoming
from channels_ws4redis.standing import Standing
from channels_ws4redis.store.loops import running_loop, this_loop
from channels_ws4redis.subscriber_hooks import SubscriberHooks

#: Seconds that a client of the package's own protocol has for its first frame.
HELLO_TIMEOUT = 10.0


class State(enum.Enum):
    """How far a socket has come, admitted or not; `Turns.left` says whether its client is there."""

    #: The server waits for its application to accept the socket or to refuse it.
    CONNECTING = enum.auto()
    #: Accepted; the hello of a client of the package's own protocol has not arrived yet.
    GREETING = enum.auto()
    #: Accepted, and greeted if its client speaks the package's own protocol.
    OPEN = enum.auto()
    #: Refused or closed. Nothing of its client is taken any more.
    CLOSED = enum.auto()


class OpenSocket(Revocable):
    """Hears the channels of a socket, publishes for its client, and follows its subscriber.

    To be called in this order: `join`, `enter`, `open` as soon as the socket is accepted, then any
    other, and `release` at the end. A client of the package's own protocol says where it stands
    when it is accepted already: there `enter` comes after `open`.

    :param admission: what the handshake has found out.
    :param subscriber: of this socket alone; `release` releases it.
    :param registration: what stands for it until now.
    :param fanout: receives for all sockets of this event loop.
    :param outbox: takes the socket's frames.
    :param end: called with a close code and the reason if the socket has to be closed: it cannot
        listen on what its subscriber has subscribed to meanwhile, its client says no hello, or it
        may not hear any more what it has heard.
    """

    __slots__ = (
        "_end",
        "_fanout",
        "_following",
        "_hello",
        "_loop",
        "_outbox",
        "_place",
        "_socket",
        "_standing",
        "_subscriber",
    )

    def __init__(
        self,
        admission: Admission,
        subscriber: SubscriberHooks,
        registration: Registration,
        fanout: FanOut,
        outbox: Outbox,
        end: End,
    ) -> None:
        self._place = Place(subscriber.calls.whom, admission.options)
        self._subscriber = subscriber
        self._fanout = fanout
        self._outbox = outbox
        replay = admission.options.replay or settings.WS4REDIS_REPLAY
        self._socket = Socket(outbox, admission.echo, admission.labels, replay, end)
        self._standing = Standing()
        #: Held while groups are joined and left, so that changes have effect in their order.
        self._following = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._end = end
        #: Ends the socket if its client does not say hello in time; None while it need not.
        self._hello: asyncio.TimerHandle | None = None
        subscriber.follow(self._on_change)
        get_control().guard(registration.newcomer, self, registration.marks)

    @property
    def speaks_protocol(self) -> bool:
        """True for a client of the package's own protocol, False for one that gets raw frames."""
        return self._socket.labels is not None

    @property
    def closed(self) -> bool:
        """True once nothing is sent any more."""
        return self._outbox.closed

    @property
    def max_message(self) -> int:
        """Bytes that its client may send in one message."""
        return self._place.max_message

    # Entering

    async def join(self, channels: Iterable[str]) -> None:
        """Join the groups of channels; what is published from now on reaches this process.

        :raises BusyError: if its client has too many sockets.
        :raises redis.exceptions.ConnectionError: if the channel layer cannot be reached.
        """
        self._place.take()
        async with self._following:
            # Some may have been revoked since the admission. A set, as there may be thousands.
            wanted = set(self._subscriber.channels)
            await self._fanout.join(self._socket, [name for name in channels if name in wanted])

    async def enter(self, positions: dict[str, Position]) -> None:
        """Read what is stored, and send it or what was missed; the socket is live from then on.

        A hook replays in place of the package, but not to a client that has positions: that client
        recovers.

        :param positions: by label, where the client stood when it was last connected.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        self._forget_hello()
        hold = self._subscriber.replay_hook is not None and not positions

        def start(entries: Sequence[Entry]) -> None:
            self._socket.start(self._subscriber.heard(entries), positions, hold)
            if hold and self._standing.doubtful:
                self._revoke(Revoked(codes.TRY_AGAIN_LATER))

        async with self._following:
            channels = self._fanout.channels_of(self._socket)
            await self._fanout.enter(self._socket, channels, start)

    def open(self) -> None:
        """Let frames go out: the socket has been accepted."""
        self._outbox.open()
        if self.speaks_protocol:
            # Not for good: a slow network is no reason to stay away.
            why = "its client has not said hello"
            self._hello = self._loop.call_later(HELLO_TIMEOUT, self._end, codes.TOO_SLOW, why)

    def _forget_hello(self) -> None:
        if self._hello is not None:
            self._hello.cancel()
            self._hello = None

    async def replay(self, incoming: Incoming) -> None:
        """Have a hook replay, if there is one, and send the first heartbeat.

        :param incoming: tells whether the client goes meanwhile; then nobody waits for the hook.
        :raises Exception: whatever the hook raises.
        """
        if self._subscriber.replay_hook is not None and not self._socket.replayed:
            with suppress(ClientGoneError), incoming.watched(at_once=True):
                await replay_by_hook(self._subscriber.replay, self._socket)
        if not self.speaks_protocol:
            self.heartbeat()

    # For the client

    async def publish(self, payload: bytes) -> None:
        """Publish what the client has sent; its heartbeat is answered instead.

        :raises BusyError: if it sends more than it may.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        if not payload:
            return  # as legacy does: a client's empty frame must not blank what is stored
        if is_heartbeat(payload, settings.WS4REDIS_HEARTBEAT):
            self.heartbeat()
        else:
            await self._place.publish(len(payload), self._subscriber.audience)
            if await self._standing.may_publish():
                await self._subscriber.publish(payload, self._socket.id)

    def heartbeat(self) -> None:
        """Send the heartbeat, if there is one."""
        heartbeat = settings.WS4REDIS_HEARTBEAT
        if heartbeat is not None:
            self._outbox.put(Frame(heartbeat))

    def pong(self) -> None:
        """Answer the client's ping."""
        self._outbox.put(json_frame({"type": "pong"}))

    # For the subscriber

    def _on_change(self) -> None:
        """Follow a change of the subscriber's channels; in a thread, return when it has effect."""
        if running_loop() is self._loop:
            this_loop().spawn(self._follow(), "ws4redis-follow")
        else:
            asyncio.run_coroutine_threadsafe(self._follow(), self._loop).result()

    async def _follow(self) -> None:
        async with self._following:
            if self.closed:
                return
            wanted = self._subscriber.channels
            if self.speaks_protocol:
                self._socket.labels = channel_labels(self._subscriber.prefix, wanted)
            added = self._fanout.leave_others(self._socket, wanted)
            try:
                await self._fanout.join(self._socket, added)
                if self._socket.started:  # else `enter` will read these channels with the others
                    await self._fanout.enter(self._socket, added, self._socket.go_on)
            except (redis.exceptions.RedisError, OSError) as error:
                self._end(codes.TRY_AGAIN_LATER, error)
            finally:
                if self._outbox.closed:  # while this was waiting
                    self._fanout.leave(self._socket)

    # The end

    def stop(self) -> None:
        """Send nothing any more, and leave all groups."""
        self._forget_hello()
        get_control().forget(self)
        self._standing.give_up()
        self._outbox.close()
        self._fanout.leave(self._socket)

    async def release(self) -> None:
        """Stop, and run the subscriber's ``release``; to be called once."""
        self.stop()
        self._place.leave()
        await self._subscriber.release()
