"""One subscription of a socket: what is heard of a facility, and published there. Private."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.held import Entry
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.limits import Place
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.messages import Positions, is_heartbeat
from channels_ws4redis.protocol.names import channel_labels
from channels_ws4redis.serving.registering import Admitted, Registration
from channels_ws4redis.serving.replaying import replay_by_hook
from channels_ws4redis.serving.revoking import Revocable
from channels_ws4redis.serving.standing import Standing
from channels_ws4redis.serving.verdicts import TooBigError, Verdict
from channels_ws4redis.store.clients import OF_REDIS
from channels_ws4redis.store.loops import running_loop, this_loop


class Host(Protocol):
    """The socket that subscriptions are of."""

    def over(self, which: OpenSubscription, verdict: Verdict, at_once: bool = False) -> None:
        """Have one of them end, or the socket with its last one; see `OpenSubscription.end`."""


class OpenSubscription(Revocable):
    """Hears the channels of one facility, publishes for the client, and follows its subscriber.

    The first subscription of a socket is that of its URL. To be called in this order: `guard`,
    `join`, `enter`, then any other, and `release` at the end.

    :param admitted: what there is of it so far; it is to be guarded in the same step.
    :param fanout: receives for all sockets of this event loop.
    :param outbox: takes the socket's frames.
    :param host: the socket, which is told if the subscription has to end: it cannot listen on what
        its subscriber has subscribed to meanwhile, or may not hear any more what it has heard.
    :param number: the id that the client has given it; 0 for that of the URL.
    """

    __slots__ = (
        "_fanout",
        "_following",
        "_host",
        "_loop",
        "_socket",
        "_standing",
        "_subscriber",
        "place",
    )

    def __init__(
        self, admitted: Admitted, fanout: FanOut, outbox: Outbox, host: Host, number: int = 0
    ) -> None:
        admission, hooks, _ = admitted
        #: Among the sockets of its client.
        self.place = Place(hooks.calls.whom, admission.options)
        self._subscriber = hooks
        self._fanout = fanout
        self._host = host
        replay = admission.options.replay or settings.WS4REDIS_REPLAY
        self._socket = Socket(outbox, admission.echo, admission.labels, replay, self, number)
        self._standing = Standing()
        #: Held while groups are joined and left, so that changes have effect in their order.
        self._following = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        hooks.rest()
        hooks.follow(self._on_change)

    def guard(self, registration: Registration) -> None:
        """Have orders concern it, in place of what stood for it until now; that may end it."""
        get_control().guard(registration.newcomer, self, registration.marks)

    @property
    def number(self) -> int:
        """The id that the client has given it; 0 for that of the URL."""
        return self._socket.number

    @property
    def started(self) -> bool:
        """True once the client has been told that it is open."""
        return self._socket.started

    @property
    def closed(self) -> bool:
        """True once nothing is sent any more."""
        return self._socket.outbox.closed

    @property
    def calls(self) -> Calls:
        """What runs the project's code for it."""
        return self._subscriber.calls

    @property
    def speaks_protocol(self) -> bool:
        """True for a client of the package's own protocol, False for one that gets raw frames."""
        return self._socket.labels is not None

    # Entering

    async def join(self, channels: Iterable[str]) -> None:
        """Join the groups of channels; what is published from now on reaches this process.

        :raises BusyError: if its client has too many sockets.
        :raises redis.exceptions.ConnectionError: if the channel layer cannot be reached.
        """
        self.place.take()
        async with self._following:
            # Some may have been revoked since the admission. A set, as there may be thousands.
            wanted = set(self._subscriber.channels)
            await self._fanout.join(self._socket, [name for name in channels if name in wanted])

    async def enter(self, positions: Positions, further: int = 0) -> None:
        """Read what is stored, and send it or what was missed; it is live from then on.

        A hook replays in place of the package, but not to a client that has positions: that client
        recovers.

        :param positions: by label, where the client stood when it was last connected.
        :param further: how many further subscriptions the client is told that it may have.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        hold = self._subscriber.replay_hook is not None and not positions

        def start(entries: Sequence[Entry]) -> None:
            self._socket.start(self._subscriber.heard(entries), positions, hold, further)
            if hold and self._standing.doubtful:
                self._revoke(Verdict(codes.TRY_AGAIN_LATER))

        async with self._following:
            channels = self._fanout.channels_of(self._socket)
            await self._fanout.enter(self._socket, channels, start)

    @property
    def is_due_to_hook(self) -> bool:
        """True if a hook has still to send what is stored."""
        return self._subscriber.replay_hook is not None and not self._socket.replayed

    async def replay(self) -> None:
        """Have a hook replay, if there is one that has to.

        :raises Exception: whatever the hook raises.
        """
        if self.is_due_to_hook:
            await replay_by_hook(self._subscriber.replay, self._socket)

    # For the client

    async def publish(self, payload: bytes) -> None:
        """Publish what the client has sent; its heartbeat is answered instead.

        :raises BusyError: if it sends more than it may.
        :raises TooBigError: if it sends more at once than it may.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        if len(payload) > self.place.max_message:
            raise TooBigError
        if not payload:
            return  # as legacy does: a client's empty frame must not blank what is stored
        if is_heartbeat(payload, settings.WS4REDIS_HEARTBEAT):
            self.heartbeat()
        else:
            await self.place.publish(len(payload), self._subscriber.audience)
            if await self._standing.may_publish():
                await self._subscriber.publish(payload, self._socket.id)

    def heartbeat(self) -> None:
        """Send the heartbeat, if there is one."""
        heartbeat = settings.WS4REDIS_HEARTBEAT
        if heartbeat is not None:
            self._socket.outbox.put(Frame(heartbeat))

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
            except OF_REDIS as error:
                self.end(codes.TRY_AGAIN_LATER, error)
            finally:
                if self._socket.outbox.closed:  # while this was waiting
                    self._fanout.leave(self._socket)

    # The end

    def end(
        self, code: int, why: Exception | str = "", reason: str = "", at_once: bool = False
    ) -> None:
        """Have the subscription end, or the socket with its last one; see `Revocable.end`."""
        self._host.over(self, Verdict(code, why, reason), at_once)

    def stop(self) -> None:
        """Send nothing any more, and leave all groups."""
        get_control().forget(self)
        self._standing.give_up()
        self._socket.close()
        self._fanout.leave(self._socket)

    async def release(self) -> None:
        """Stop, and run the subscriber's ``release``; to be called once."""
        self.stop()
        await self._subscriber.release()
