"""What ASGI servers do differently from each other, and what we do about it."""

from __future__ import annotations

import asyncio
import functools
import random
import weakref
from typing import Any

from channels_ws4redis.conf import settings


def _innermost(send: Any) -> Any:
    """Return the server's own ``send`` behind what Channels' middleware has put around it."""
    while not isinstance(send, functools.partial) and hasattr(send, "__self__"):
        if not hasattr(send.__self__, "real_send"):
            break
        send = send.__self__.real_send
    return send


def daphne_protocol(send: Any) -> Any:
    """Return daphne's protocol object behind an ASGI ``send``, or None on any other server."""
    send = _innermost(send)
    protocol = send.args[0] if isinstance(send, functools.partial) and send.args else None
    return protocol if hasattr(protocol, "sendCloseFrame") else None


def uvicorn_protocol(send: Any) -> Any:
    """Return uvicorn's protocol object behind an ASGI ``send``, or None on any other server."""
    protocol = getattr(_innermost(send), "__self__", None)
    return protocol if hasattr(protocol, "shutdown") else None


async def close_socket(send: Any, code: int, patience: float = 1.0) -> None:
    """Close an accepted socket with any code that RFC 6455 and its registry know.

    :param patience: seconds after which daphne gives up on a client that does not answer.

    The method that daphne calls refuses codes below 3000, so that a server could not even say that
    it is going away; the one below it, which daphne uses for errors of its own, takes them.
    """
    protocol = daphne_protocol(send)
    if protocol is not None:
        protocol.closeHandshakeTimeout = patience
    if protocol is None or code >= 3000:
        await send({"type": "websocket.close", "code": code})
    elif protocol.state == protocol.STATE_OPEN:
        protocol.sendCloseFrame(code=code)


def abort_socket(send: Any) -> None:
    """Drop the connection of a client that cannot even be told to go.

    asyncio would keep what the server has written, and the connection, for as long as the client
    pleases.
    """
    transport = getattr(getattr(_innermost(send), "__self__", None), "transport", None)
    if transport is not None and hasattr(transport, "abort"):
        transport.abort()


class TwistedTransport:
    """Backpressure for daphne, whose ``send`` never waits.

    Without it a client that does not read costs as much memory as there are messages.

    Registered as the transport's producer (:class:`twisted.internet.interfaces.IPushProducer`), it
    is told when the write buffer of 64 KiB is full and when it has run empty.
    """

    __slots__ = ("_resumed", "_transport", "writable")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._resumed: asyncio.Future[None] | None = None
        self.writable = True

    @classmethod
    def behind(cls, send: Any) -> TwistedTransport | None:
        """Return the transport behind a server's ``send``, or None if the server is not daphne."""
        transport = getattr(daphne_protocol(send), "transport", None)
        if transport is None or not hasattr(transport, "registerProducer"):
            return None
        self = cls(transport)
        # Twisted's HTTP channel, from which daphne took the transport over, is still registered,
        # and there can be only one. All it does is to read no more of a client that does not read.
        transport.unregisterProducer()
        transport.registerProducer(self, True)
        return self

    def pauseProducing(self) -> None:  # noqa: N802 # Twisted's name
        """Called by Twisted when its buffer is full."""
        self.writable = False

    def resumeProducing(self) -> None:  # noqa: N802 # Twisted's name
        """Called by Twisted when its buffer is empty again."""
        self.writable = True
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        if getattr(self._transport, "disconnecting", False):
            # A transport that has just resumed its producer waits for it before it closes.
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:  # noqa: N802 # Twisted's name
        """Called by Twisted when the connection is lost; what is written from now on is lost."""
        self.resumeProducing()

    async def wait(self) -> None:
        """Wait until the buffer has room."""
        while not self.writable:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed

    def release(self) -> None:
        """Stop listening to the transport."""
        self._transport.unregisterProducer()
        self.resumeProducing()


#: The sockets that daphne serves in this process.
_tasks: set[asyncio.Task[Any]] = set()
_reactors: weakref.WeakSet[Any] = weakref.WeakSet()


def stop_with_server(send: Any, task: asyncio.Task[Any]) -> None:
    """Have a socket's task cancelled, and waited for, when daphne stops.

    Daphne means to do that itself, but gives up at the first WebSocket: for the request by which
    that began it keeps an entry without an application (KeyError in ``kill_all_applications``,
    daphne 4.2). To be deleted when that is mended; it does no harm then.
    """
    transport = getattr(daphne_protocol(send), "transport", None)
    reactor = getattr(transport, "reactor", None)
    if reactor is None:
        return
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    if reactor not in _reactors:
        _reactors.add(reactor)
        reactor.addSystemEventTrigger("before", "shutdown", _stop)


def _stop() -> Any:
    # Imported late, as no other server has it loaded.
    from twisted.internet.defer import Deferred  # noqa: PLC0415

    tasks = list(_tasks)
    for task in tasks:
        if not task.cancelling():
            task.cancel()
    return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait(tasks))) if tasks else None


def spread_shutdown(send: Any) -> None:
    """Have uvicorn, when it stops, close a socket at a moment of its own within the close window.

    It calls ``shutdown()`` of each connection, all in one turn of the loop, and then waits until
    they are gone: every client would come back in the same instant.
    """
    protocol = uvicorn_protocol(send)
    if protocol is not None:
        protocol.shutdown = functools.partial(_shutdown_later, protocol)


def forget_shutdown(send: Any) -> None:
    """Undo `spread_shutdown`, for a socket that has ended."""
    protocol = uvicorn_protocol(send)
    if protocol is not None:
        vars(protocol).pop("shutdown", None)


def _shutdown_later(protocol: Any) -> None:
    window = settings.WS4REDIS_CLOSE_WINDOW
    config = getattr(protocol, "config", None)
    patience: float | None = getattr(config, "timeout_graceful_shutdown", None)
    if patience is not None:
        # What is still open after that gets no close frame at all: the process ends itself.
        window = min(window, patience / 2)
    delay = random.uniform(0, window)  # noqa: S311 # no secret
    asyncio.get_running_loop().call_later(delay, _shutdown_now, protocol)


def _shutdown_now(protocol: Any) -> None:
    if "shutdown" in vars(protocol):
        type(protocol).shutdown(protocol)
