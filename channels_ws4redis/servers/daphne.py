"""Daphne, which has no backpressure, and whose sockets get no word when it stops."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any

from channels_ws4redis.servers.incoming import AsgiEvent
from channels_ws4redis.servers.peer import KnownPeer, Send, made_by
from channels_ws4redis.servers.straight import written_in

#: Messages, and bytes, of a client that may wait for its socket's task before no more is read. The
#: client notices nothing of that but that it has to wait.
MAX_MESSAGES_READ, MAX_BYTES_READ = 32, 64 * 1024

#: Autobahn rounds the end of its patience down to a whole second, so a client might be dropped in
#: the moment in which it is told to go. To be deleted when txaio rounds up.
_ROUNDED_OFF = 1

#: Twisted's transports that may be written to at once.
_BARE = {("twisted.internet.tcp", "Server"), ("twisted.internet.unix", "Server")}


def running_server() -> Any:
    """Return daphne's server object if this process is run by daphne, or None."""
    reactor = sys.modules.get("twisted.internet.reactor")
    for reader in () if reactor is None else reactor.getReaders():
        factory: Any = getattr(reader, "factory", None)
        factory = getattr(factory, "wrappedFactory", factory)  # where daphne itself does TLS
        if made_by("daphne", factory):
            return factory.server
    return None


def running_protocol() -> Any:
    """Return daphne's protocol object of the socket that this task serves, or None.

    Middleware may have hidden it behind a ``send`` of its own, but runs in the same task.
    """
    server, task = running_server(), asyncio.current_task()
    for protocol, details in () if server is None else server.connections.items():
        if details.get("application_instance") is task:
            return protocol
    return None


class DaphnePeer(KnownPeer):
    """A socket on daphne.

    Daphne's ``send`` never waits: without backpressure a client that does not read costs as much
    memory as there are messages. So the peer registers as the producer of Twisted's transport
    (:class:`twisted.internet.interfaces.IPushProducer`), and is told when the write buffer of
    64 KiB is full and when it has run empty. To be deleted when daphne's ``send`` waits for room.
    """

    __slots__ = (
        "_bytes",
        "_full",
        "_messages",
        "_on_gone",
        "_reading",
        "_resumed",
        "_transport",
        "released",
    )

    def __init__(self, send: Send, protocol: Any, own: bool) -> None:
        super().__init__(send, protocol, own)
        self._transport = protocol.transport
        bare = _is_bare(self._transport)
        self._write_straight = self._write_at_once if bare else self._transport.write
        self._full = False
        #: Messages that have been read and wait for the socket's task, and their bytes, which are
        #: counted until none waits any more.
        self._messages = self._bytes = 0
        self._reading = True
        protocol.onMessage = self._on_message
        protocol.closeHandshakeTimeout += _ROUNDED_OFF  # if it is closed by daphne's own ``send``
        self._resumed: asyncio.Future[None] | None = None
        self.released = False
        # Twisted's HTTP channel, from which daphne took the transport over, is still registered,
        # and there can be only one. All it does is to read no more of a client that does not read.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, True)

    @staticmethod
    def protocol_behind(send: Any) -> Any:
        """Return daphne's protocol object behind a server's ``send``, or None."""
        protocol = send.args[0] if isinstance(send, functools.partial) and send.args else None
        return protocol if made_by("daphne", protocol) else None

    @staticmethod
    def is_own(send: Any) -> bool:
        """Tell whether a ``send`` that leads to daphne is daphne's own."""
        return type(send) is functools.partial and written_in("daphne", send.func)

    def pauseProducing(self) -> None:  # noqa: N802 # Twisted's name
        """Called by Twisted when its buffer is full.

        No more is read then of a client that does not read: each of its pings would be answered
        into that buffer.
        """
        self._full = True
        self.writable = False
        self._set_reading()

    def resumeProducing(self) -> None:  # noqa: N802 # Twisted's name
        """Called by Twisted when its buffer is empty again."""
        self._full = False
        self.writable = self._own
        self._set_reading()
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        if getattr(self._transport, "disconnecting", False):
            # A transport that has just resumed its producer waits for it before it closes.
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:  # noqa: N802 # Twisted's name
        """Called by Twisted when the connection is lost; what is written from now on is lost."""
        self.resumeProducing()

    def _on_message(self, payload: bytes, is_binary: bool) -> None:
        """Called by autobahn with a message of the client; daphne has a queue without a bound."""
        self._messages += 1
        self._bytes += len(payload)
        self._set_reading()
        type(self._protocol).onMessage(self._protocol, payload, is_binary)

    def take(self, event: AsgiEvent) -> None:
        """Read on once the socket's task has taken what had been read."""
        if event["type"] == "websocket.receive":
            self._messages -= 1
            if self._messages <= 0:
                self._messages = self._bytes = 0
                self._set_reading()

    def _set_reading(self) -> None:
        is_open = self._protocol.state == self._protocol.STATE_OPEN and not self.released
        waiting = self._messages > MAX_MESSAGES_READ or self._bytes > MAX_BYTES_READ
        wanted = not (is_open and (self._full or waiting))
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resumeProducing()
            else:
                self._transport.pauseProducing()

    def _write_at_once(self, wire: bytes) -> None:
        """Hand a frame to the connection itself, unless something waits before it.

        Twisted would write it in its next turn, and have the reactor watch each single connection
        until then, which takes four times as long. Whatever the connection does not take is
        Twisted's. To be deleted when Twisted's ``write`` tries at once.
        """
        transport = self._transport
        if transport.connected and not (transport.dataBuffer or transport._tempDataBuffer):
            taken = transport.writeSomeData(wire)
            if taken == len(wire):
                return
            if isinstance(taken, int):  # else the connection is lost, as Twisted finds by itself
                wire = wire[taken:]
        transport.write(wire)

    async def drained(self) -> None:
        """Wait until the buffer has room."""
        while self._full:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed

    async def close(self, code: int, patience: float, reason: str = "") -> None:
        """Close the socket with any code, and with a reason.

        The method that daphne calls refuses codes below 3000, so that a server could not even say
        that it is going away, and daphne passes on no reason. The one below it, which autobahn uses
        for errors of its own, takes both. To be deleted when daphne passes the reason on, and
        ``sendClose`` of autobahn takes what RFC 6455 lets servers send.
        """
        protocol = self._protocol
        protocol.closeHandshakeTimeout = patience + _ROUNDED_OFF
        if (code >= 3000 and not reason) or protocol.state == protocol.STATE_CONNECTING:
            await super().close(code, patience, reason)
        elif protocol.state == protocol.STATE_OPEN:
            protocol.sendCloseFrame(code=code, reasonUtf8=reason.encode())
        self._set_reading()  # what the client answers

    def abort(self) -> None:
        """Drop the connection, with whatever Twisted has yet to write."""
        self._protocol.dropConnection(abort=True)

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Have a function called when the connection is lost, in whichever way."""
        self._on_gone = callback
        self._protocol.onClose = self._lose

    def _lose(self, *how: Any) -> None:
        type(self._protocol).onClose(self._protocol, *how)
        self._on_gone()

    def on_stop(self, task: asyncio.Task[Any], stop: Callable[[], None]) -> None:
        """Have the socket's task stopped, and waited for, when daphne stops."""
        _shutdown_of(self._transport.reactor).watch(self, task, stop)

    def refuse(self) -> None:
        """Answer a handshake that is still under way with "503 Service Unavailable"."""
        protocol = self._protocol
        if protocol.state == protocol.STATE_CONNECTING and hasattr(protocol, "handshake_deferred"):
            # Imported late, as no other server has it loaded.
            from autobahn.websocket.types import ConnectionDeny  # noqa: PLC0415

            code = ConnectionDeny.SERVICE_UNAVAILABLE
            denial = ConnectionDeny(code, "Shutting down")  # type: ignore[no-untyped-call] # has no types
            protocol.handshake_deferred.errback(denial)
            del protocol.handshake_deferred

    def release(self) -> None:
        """Stop listening to the transport; the task is still waited for, but not stopped."""
        self.released = True
        for name in ("onClose", "onMessage"):
            vars(self._protocol).pop(name, None)
        self._transport.unregisterProducer()
        self._write_straight = self._transport.write  # no circle through the peer is left
        self.resumeProducing()


def _is_bare(transport: Any) -> bool:
    """Tell whether Twisted's transport is a bare connection, of which the buffers are known."""
    kind = type(transport)
    return (
        (kind.__module__, kind.__name__) in _BARE
        and not transport.TLS
        and hasattr(transport, "dataBuffer")
        and hasattr(transport, "_tempDataBuffer")
        and written_in("twisted", transport.write)
        and written_in("twisted", transport.writeSomeData)
    )


class _Shutdown:
    """How a daphne process comes to its end: it lets nobody in any more, and tells everybody.

    Daphne means to tell its applications itself, but gives up at the first WebSocket: for the
    request by which that began it keeps an entry without an application (KeyError in
    ``kill_all_applications``, daphne 4.2). It also listens on while applications end, and cuts off
    whoever it has let in meanwhile. To be deleted when both are mended; it does no harm then.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: By the task of each socket, its peer and what stops it.
        self._sockets: dict[asyncio.Task[Any], tuple[DaphnePeer, Callable[[], None]]] = {}
        self._begun = False
        reactor.addSystemEventTrigger("before", "shutdown", self._begin)

    def watch(self, peer: DaphnePeer, task: asyncio.Task[Any], stop: Callable[[], None]) -> None:
        """End a socket when the process ends; at once if that has begun."""
        self._sockets[task] = peer, stop
        task.add_done_callback(self._forget)
        if self._begun:
            self._end(peer, stop)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self._sockets[task]

    def _begin(self) -> Any:
        # Imported late, as no other server has it loaded.
        from twisted.internet.defer import Deferred  # noqa: PLC0415
        from twisted.internet.interfaces import IListeningPort  # noqa: PLC0415

        self._begun = True
        # A client, or the proxy in front, sees at once that it must go elsewhere or come back. It
        # can still be told by HTTP if it had made its connection before.
        for reader in self._reactor.getReaders():
            if IListeningPort.providedBy(reader):
                reader.stopListening()
        tasks = list(self._sockets)
        for peer, stop in list(self._sockets.values()):
            self._end(peer, stop)
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait(tasks))) if tasks else None

    @staticmethod
    def _end(peer: DaphnePeer, stop: Callable[[], None]) -> None:
        peer.refuse()
        if not peer.released:
            stop()


#: One per process, as there is one reactor.
_shutdown_of = functools.cache(_Shutdown)
