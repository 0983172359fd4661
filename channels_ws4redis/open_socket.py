"""A socket that has been admitted: what it hears, and what it does for its client. Private."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable, Sequence

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Entry, Socket
from channels_ws4redis.handshake.admission import Admission
from channels_ws4redis.protocol.messages import Position, is_heartbeat, json_frame
from channels_ws4redis.protocol.names import channel_labels
from channels_ws4redis.replaying import replay_by_hook
from channels_ws4redis.store.loops import running_loop, this_loop
from channels_ws4redis.subscriber import SubscriberHooks


class State(enum.Enum):
    """How far a socket has come, admitted or not."""

    #: The server waits for its application to accept the socket or to refuse it.
    CONNECTING = enum.auto()
    #: Accepted; the hello of a client of the package's own protocol has not arrived yet.
    GREETING = enum.auto()
    #: Accepted, and greeted if its client speaks the package's own protocol.
    OPEN = enum.auto()
    #: Refused, or closed by us. The client may still have to answer.
    CLOSED = enum.auto()


class OpenSocket:
    """Hears the channels of a socket, publishes for its client, and follows its subscriber.

    To be called in this order: `join`, `enter`, `open` as soon as the socket is accepted, then any
    other, and `release` at the end. A client of the package's own protocol says where it stands
    when it is accepted already: there `enter` comes after `open`.

    :param admission: what the handshake has found out.
    :param subscriber: of this socket alone; `release` releases it.
    :param fanout: receives for all sockets of this event loop.
    :param outbox: takes the socket's frames.
    :param on_fault: called if the socket cannot listen on what its subscriber has subscribed to
        meanwhile, with the reason; to close the socket, which would be deaf otherwise.
    """

    __slots__ = (
        "_fanout",
        "_following",
        "_loop",
        "_on_fault",
        "_outbox",
        "_socket",
        "_subscriber",
    )

    def __init__(
        self,
        admission: Admission,
        subscriber: SubscriberHooks,
        fanout: FanOut,
        outbox: Outbox,
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._subscriber = subscriber
        self._fanout = fanout
        self._outbox = outbox
        self._socket = Socket(outbox, admission.echo, admission.labels)
        #: Held while groups are joined and left, so that changes have effect in their order.
        self._following = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._on_fault = on_fault

    @property
    def speaks_protocol(self) -> bool:
        """True for a client of the package's own protocol, False for one that gets raw frames."""
        return self._socket.labels is not None

    @property
    def closed(self) -> bool:
        """True once nothing is sent any more."""
        return self._outbox.closed

    # Entering

    async def join(self, channels: Iterable[str]) -> None:
        """Join the groups of channels; what is published from now on reaches this process.

        :raises redis.exceptions.ConnectionError: if the channel layer cannot be reached.
        """
        async with self._following:
            self._subscriber.follow(self._on_change)
            await self._fanout.join(self._socket, channels)

    async def enter(self, positions: dict[str, Position]) -> None:
        """Read what is stored, and send it or what was missed; the socket is live from then on.

        A hook replays in place of the package, but not to a client that has positions: that client
        recovers.

        :param positions: by label, where the client stood when it was last connected.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        hold = self._subscriber.replay_hook is not None and not positions

        def start(entries: Sequence[Entry]) -> None:
            self._socket.start(entries, positions, hold)

        async with self._following:
            channels = self._fanout.channels_of(self._socket)
            await self._fanout.enter(self._socket, channels, start)

    def open(self) -> None:
        """Let frames go out: the socket has been accepted."""
        self._outbox.open()

    async def replay(self) -> None:
        """Have a hook replay, if there is one, and send the first heartbeat.

        :raises Exception: whatever the hook raises.
        """
        hook = self._subscriber.replay_hook
        if hook is not None and not self._socket.replayed:
            await replay_by_hook(hook, self._socket)
        if not self.speaks_protocol:
            self.heartbeat()

    # For the client

    async def publish(self, payload: bytes) -> None:
        """Publish what the client has sent; its heartbeat is answered instead.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        if not payload:
            return  # as legacy does: a client's empty frame must not blank what is stored
        if is_heartbeat(payload, settings.WS4REDIS_HEARTBEAT):
            self.heartbeat()
        else:
            await self._subscriber.publish(payload, self._socket.id)

    def heartbeat(self) -> None:
        """Send the heartbeat, if there is one."""
        heartbeat = settings.WS4REDIS_HEARTBEAT
        if heartbeat is not None:
            self._outbox.put({"type": "websocket.send", "text": heartbeat})

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
            wanted, now = self._subscriber.channels, self._fanout.channels_of(self._socket)
            gone = [name for name in now if name not in wanted]
            added = [name for name in wanted if name not in now]
            if self.speaks_protocol:
                self._socket.labels = channel_labels(self._subscriber.prefix, wanted)
            self._fanout.leave(self._socket, gone)
            try:
                await self._fanout.join(self._socket, added)
                if self._socket.started:  # else `enter` will read these channels with the others
                    await self._fanout.enter(self._socket, added, self._socket.go_on)
            except (redis.exceptions.RedisError, OSError) as error:
                self._on_fault(error)
            finally:
                if self._outbox.closed:  # while this was waiting
                    self._fanout.leave(self._socket)

    # The end

    def stop(self) -> None:
        """Send nothing any more, and leave all groups."""
        self._outbox.close()
        self._fanout.leave(self._socket)

    async def release(self) -> None:
        """Stop, and run the subscriber's ``release``; to be called once."""
        self.stop()
        await self._subscriber.release()
