"""A socket that has been admitted: its subscriptions, and what they share. Private."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.handshake.refusals import few_lines, tell
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.client_frames import Wanted
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.messages import Positions, json_frame
from channels_ws4redis.servers import ClientGoneError, Incoming
from channels_ws4redis.serving.further import Further
from channels_ws4redis.serving.open_subscription import OpenSubscription
from channels_ws4redis.serving.registering import Admitted
from channels_ws4redis.serving.verdicts import FAULTS, Verdict, for_frame, level_of
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

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


class End(Protocol):
    """Has a socket closed."""

    def __call__(self, code: int, why: Exception | str, *, reason: str = "") -> None:
        """Close it with a code; `why` is for the log, and the reason for the client."""


class OpenSocket:
    """The subscription of a socket's URL, and the further ones of its client.

    To be called in this order: `join`, `enter`, `open` as soon as the socket is accepted, then any
    other, and `release` at the end. A client of the package's own protocol says where it stands
    when it is accepted already: there `enter` comes after `open`.

    :param admitted: what the handshake has found out; it is guarded from now on.
    :param fanout: receives for all sockets of this event loop.
    :param outbox: takes the socket's frames.
    :param end: called with a close code and the reason if the socket has to be closed: its client
        says no hello, or its last subscription has to end.
    :param most: how many further subscriptions there may be.
    """

    __slots__ = (
        "_end",
        "_fanout",
        "_further",
        "_greeting",
        "_hello",
        "_most",
        "_outbox",
        "_silent",
        "_url",
    )

    def __init__(
        self, admitted: Admitted, fanout: FanOut, outbox: Outbox, end: End, most: int = 0
    ) -> None:
        self._fanout = fanout
        self._outbox = outbox
        self._end = end
        self._most = most
        #: Ends the socket if its client does not say hello in time; None while it need not.
        self._hello: asyncio.TimerHandle | None = None
        #: Done when the ``welcome`` has been sent; None before its client says hello, and after.
        self._greeting: asyncio.Future[None] | None = None
        #: None as long as its client has asked for none.
        self._further: Further | None = None
        #: Gets the pings of the socket once the subscription of its URL is over; None before.
        self._silent: Socket | None = None
        self._url = OpenSubscription(admitted, fanout, outbox, self)
        self._url.guard(admitted.registration)

    @property
    def speaks_protocol(self) -> bool:
        """True for a client of the package's own protocol, False for one that gets raw frames."""
        return self._url.speaks_protocol

    # Entering

    async def join(self, channels: Sequence[str]) -> None:
        """Join the groups of its URL's subscription; see `OpenSubscription.join`."""
        await self._url.join(channels)

    async def enter(self, positions: Positions) -> None:
        """Let its URL's subscription go live; see `OpenSubscription.enter`."""
        self._forget_hello()
        greeting = self._greeting = asyncio.get_running_loop().create_future()
        try:
            await self._url.enter(positions, self._most)
        finally:
            self._greeting = None
            greeting.set_result(None)

    def open(self) -> None:
        """Let frames go out: the socket has been accepted."""
        self._outbox.open()
        if self.speaks_protocol:
            # Not for good: a slow network is no reason to stay away.
            why = "its client has not said hello"
            loop = asyncio.get_running_loop()
            self._hello = loop.call_later(HELLO_TIMEOUT, self._end, codes.TOO_SLOW, why)

    def _forget_hello(self) -> None:
        if self._hello is not None:
            self._hello.cancel()
            self._hello = None

    async def replay(self, incoming: Incoming) -> None:
        """Have a hook replay, if there is one, and send the first heartbeat.

        :param incoming: tells whether the client goes meanwhile; then nobody waits for the hook.
        :raises Exception: whatever the hook raises.
        """
        if self._url.is_due_to_hook:
            with suppress(ClientGoneError), incoming.watched(at_once=True):
                await self._url.replay()
        if not self.speaks_protocol:
            self._url.heartbeat()

    async def greeted(self) -> None:
        """Wait until the client has got its ``welcome``."""
        if self._greeting is not None:
            # All at once: what is stored of all that they have subscribed to is read together.
            await asyncio.shield(self._greeting)

    # For the client

    async def publish(self, payload: bytes, number: int = 0) -> None:
        """Publish what the client has sent; its heartbeat is answered instead.

        :param number: the id of the subscription that publishes; 0 for that of the URL. One that is
            not open publishes nothing.
        :raises Exception: what `OpenSubscription.publish` does, if it is the last one.
        """
        which = self._find(number)
        if which is None or (number and not which.started):
            return
        try:
            await which.publish(payload)
        except FAULTS as error:
            if which is self._find(number) and not self._has_others(which):
                raise
            self.over(which, for_frame(error))

    def _find(self, number: int) -> OpenSubscription | None:
        if number:
            return None if self._further is None else self._further.find(number)
        return self._url if self._silent is None else None

    def pong(self) -> None:
        """Answer the client's ping."""
        self._outbox.put(json_frame({"type": "pong"}))

    def subscribe(self, wanted: Wanted) -> None:
        """Have a further subscription looked up and opened, or refused.

        :raises ProtocolError: if its id is in use.
        """
        if self._further is None:
            self._further = Further(self, self._fanout, self._outbox, self._url.calls)
        # That of the URL leaves its place to another one, once it is over.
        free = self._silent is not None and self._most > 0
        self._further.begin(wanted, self._most + free)

    def unsubscribe(self, number: int) -> None:
        """Have a subscription be over, that of the URL for 0; an id of none is ignored."""
        if number and self._further is not None:
            self._further.end(number)
        elif not number and self._silent is None:
            self._silent = Socket(self._outbox, echo=False, labels={})
            self._silent.replayed = True
            # First: a fan-out is closed for good with its last socket.
            self._fanout.keep(self._silent)
            self._url.stop()
            this_loop().spawn(self._url.release(), "ws4redis-release")

    # For its subscriptions

    def refuse(self, number: int, path: str, verdict: Verdict) -> None:
        """Tell the client of a subscription that there is not."""
        if verdict.why:
            what = "Refused" if verdict.code == codes.REFUSED else "Cannot open"
            tell(logger, level_of(verdict.why), what, path, verdict.why)
        self._tell("refused", number, verdict.code, verdict.reason)

    def over(self, which: OpenSubscription, verdict: Verdict, at_once: bool = False) -> None:
        """Have a subscription end, or the socket with its last one.

        One that is over already is of no concern: its client may have unsubscribed.
        """
        if which is not self._find(which.number):
            return
        code, why, reason = verdict
        refused = which.number and not which.started
        if not refused and not self._has_others(which):
            if at_once:
                self.stop()
            self._end(code, why, reason=reason)
            return
        if why:
            tell(logger, level_of(why), "Closing", which.calls.scope["path"], why)
        self.unsubscribe(which.number)
        self._tell("refused" if refused else "ended", which.number, code, reason)

    def _has_others(self, than: OpenSubscription) -> bool:
        """Tell whether a subscription that ends leaves the socket open for others.

        It does not before the socket has begun: its client is owed a ``welcome``.
        """
        if than is self._url and not than.started:
            return False
        has_url = self._silent is None and than is not self._url
        return has_url or (self._further is not None and self._further.has_others(than))

    def _tell(self, kind: str, number: int, code: int, reason: str) -> None:
        body = {"type": kind, "code": code, "reason": reason}
        frame = json_frame({"id": number} | body if number else body)
        if self._silent is None and not self._url.started:
            this_loop().spawn(self._put_when_greeted(frame), "ws4redis-tell")
        else:
            self._outbox.put(frame)

    async def _put_when_greeted(self, frame: Frame) -> None:
        await self.greeted()
        self._outbox.put(frame)

    # The end

    def stop(self) -> None:
        """Send nothing any more, and leave all groups."""
        self._forget_hello()
        self._outbox.close()
        self._url.stop()
        if self._further is not None:
            self._further.stop()
        if self._silent is not None:
            self._fanout.leave(self._silent)

    async def release(self) -> None:
        """Stop, and have all subscribers run their ``release``; to be called once."""
        self.stop()
        self._url.place.leave()
        if self._silent is None:
            await self._url.release()
        if self._further is not None:
            await self._further.release()
