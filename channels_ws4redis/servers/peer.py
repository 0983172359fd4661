"""One socket as its server sees it: what holds on every server, and what on those we know."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.servers.incoming import AsgiEvent
from channels_ws4redis.servers.straight import room_of

Send = Callable[[AsgiEvent], Awaitable[None]]


class Peer:
    """A socket on any server that keeps to ASGI; a server of its own kind overrides what differs.

    Nothing is known about ``send``. A middleware may have put a timeout around it, which then
    watches the task that runs it, or may look at context variables. So every call of ``send``
    belongs into a task of the socket's own, run in `context`.

    :param send: what the consumer was given.
    """

    __slots__ = ("_send", "context", "writable")

    def __init__(self, send: Send) -> None:
        self._send = send
        #: True while `write` may be called from any task.
        self.writable = False
        #: What the tasks that write run in; None where the server does not care.
        self.context: Context | None = copy_context()

    def write(self, frame: Frame) -> Awaitable[None] | None:
        """Hand a frame to the server.

        :returns: None if the server has taken the frame, or what must be awaited, in a task of the
            socket's own and before anything else is written, until the server has.
        :raises Exception: whatever a server raises for a socket that is gone.
        """
        return self._send(frame.event)

    async def drained(self) -> None:
        """Wait until the server has room. A plain server makes ``send`` itself wait."""

    async def close(self, code: int, patience: float, reason: str = "") -> None:
        """Close the socket; one that is not accepted yet is refused.

        :param code: any code that RFC 6455 and its registry know.
        :param patience: seconds after which the server gives up on a client that does not answer,
            where the server can be told.
        :param reason: for the client, 123 bytes at most. Daphne itself gives none.
        """
        event = {"type": "websocket.close", "code": code}
        await self._send(event | {"reason": reason} if reason else event)

    def limit_messages(self, size: int) -> None:
        """Have the server itself refuse larger messages of the client, where it can be told.

        What is compressed is then not unpacked any further than that.

        :param size: bytes.
        """

    def take(self, event: AsgiEvent) -> None:
        """Note that the socket's task has taken an event of the server, and asks for the next."""

    def abort(self) -> None:
        """Drop the connection of a client that cannot even be told to go, as far as possible."""

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Have a function called when the server learns that the client has gone.

        A plain server tells us by an event alone, which comes after all that the client has sent
        before.
        """

    def on_stop(self, task: asyncio.Task[Any], stop: Callable[[], None]) -> None:
        """Have a socket end well when its server stops; to be called once, at its beginning.

        :param task: runs the socket. A server that gives no sign of its own waits for its end.
            After that a handshake that is still under way is refused at once.
        :param stop: has the task end, and is called by a server that gives no sign of its own.
        """

    def release(self) -> None:
        """Undo what was changed about the server, at the end of the socket."""


class KnownPeer(Peer):
    """A socket on a server that we know.

    :param send: the server's own, or what others have made of it.
    :param protocol: the server's object for the connection.
    :param own: whether ``send`` is the server's own. It is then run on the spot, up to where the
        server would wait, which is nearly never and costs no task switch.
    """

    __slots__ = ("_own", "_protocol", "_room", "_write_straight")

    def __init__(self, send: Send, protocol: Any, own: bool) -> None:
        super().__init__(send)
        self._protocol = protocol
        self._own = self.writable = own
        #: Tells which frames may be written past ``send`` at the moment; None if never any.
        self._room = room_of(protocol) if own else None
        #: Hands the bytes of a frame to the transport, behind all that it has been handed before.
        self._write_straight: Callable[[bytes], object]
        if own:
            self.context = None

    @staticmethod
    def protocol_behind(send: Any) -> Any:
        """Return the protocol object behind a server's ``send``, or None on any other server."""
        raise NotImplementedError

    @staticmethod
    def is_own(send: Any) -> bool:
        """Tell whether a ``send`` that leads to the server is the server's own."""
        raise NotImplementedError

    def write(self, frame: Frame) -> Awaitable[None] | None:
        """Write a frame straight to the transport, or else as the server does.

        The server's own ``send`` is run up to where it would wait.
        """
        if self._room is not None and frame.size <= self._room(self._protocol):
            self._write_straight(frame.wire)
            return None
        sending: Any = self._send(frame.event)
        if not self._own:
            return sending  # type: ignore[no-any-return] # an awaitable of any kind
        try:
            waiting_for = sending.send(None)
        except StopIteration:
            return None
        return _rest(sending, waiting_for)


@types.coroutine
def _rest(sending: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was started by hand and has come to wait for something."""
    while True:
        failure: BaseException | None = None
        try:
            yield waiting_for
        except BaseException as error:  # noqa: BLE001 # passed on, whatever it is
            failure = error
        try:
            waiting_for = sending.send(None) if failure is None else sending.throw(failure)
        except StopIteration:
            return


def made_by(package: str, thing: object) -> bool:
    """Tell whether an object's class, or a base of it, comes from a package."""
    return any(base.__module__.partition(".")[0] == package for base in type(thing).__mro__)
