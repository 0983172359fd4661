"""Uvicorn, whose sockets would all be closed in the same instant when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import socket
from collections.abc import Callable
from typing import Any, Final

from channels_ws4redis.conf import settings
from channels_ws4redis.servers.peer import KnownPeer, Send, made_by
from channels_ws4redis.servers.straight import written_in

#: Who may have paused reading: uvicorn, as messages of the client wait for the application; and we,
#: as the client does not read. Bits of a number: an `enum.Flag` would take longer for each message
#: of a client than all else that is done here.
_SERVER: Final = 1
_PEER: Final = 2


class UvicornPeer(KnownPeer):
    """A socket on uvicorn, whose ``send`` waits by itself while the client does not read.

    The same holds for all of its implementations: websockets, websockets-sansio and wsproto.
    """

    __slots__ = ("_gate", "_on_gone")

    def __init__(self, send: Send, protocol: Any, own: bool) -> None:
        super().__init__(send, protocol, own)
        # No more is read of a client that does not read: each of its pings would be answered into
        # the buffer of the transport. To be deleted when uvicorn's ``pause_writing`` does that.
        self._gate = gate = _gate_of(protocol)
        if gate is not None:
            _send_at_once(protocol.transport)
            self._write_straight = gate.write
            protocol.pause_writing = gate.pause_writing
            protocol.resume_writing = gate.resume_writing

    @staticmethod
    def protocol_behind(send: Any) -> Any:
        """Return uvicorn's protocol object behind a server's ``send``, or None."""
        protocol = getattr(send, "__self__", None)
        return protocol if made_by("uvicorn", protocol) else None

    @staticmethod
    def is_own(send: Any) -> bool:
        """Tell whether a ``send`` that leads to uvicorn is uvicorn's own."""
        return written_in("uvicorn", send)

    def limit_messages(self, size: int) -> None:
        """Lower uvicorn's ``--ws-max-size`` for this socket.

        On wsproto no compression is agreed on: it unpacks a frame whole, however large. To be
        deleted when its ``PerMessageDeflate`` has a limit.

        Each implementation has its own name for it, and other releases may have others: then the
        server's own limit stays, and the consumer refuses what is larger than ours.
        """
        protocol = self._protocol
        if hasattr(protocol, "buffer"):
            protocol.config = copy.copy(protocol.config)
            protocol.config.ws_per_message_deflate = False
        connection = getattr(protocol, "conn", None)
        for holder, name in (
            (connection, "max_message_size"),  # websockets-sansio
            (getattr(protocol, "buffer", None), "max_length"),  # wsproto
            (protocol, "max_size"),  # websockets
        ):
            limit = getattr(holder, name, None)
            if isinstance(limit, int) and limit > size:
                setattr(holder, name, size)

    def abort(self) -> None:
        """Drop the connection.

        asyncio would keep what the server has written, and the connection, for as long as the
        client pleases.
        """
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Have a function called when the connection is lost, in whichever way."""
        self._on_gone = callback
        self._protocol.connection_lost = self._lose

    def _lose(self, error: Exception | None) -> None:
        type(self._protocol).connection_lost(self._protocol, error)
        self._on_gone()

    def on_stop(self, task: asyncio.Task[Any], stop: Callable[[], None]) -> None:
        """Have uvicorn, when it stops, close the socket at a moment of its own.

        It calls ``shutdown()`` of each connection, all in one turn of the loop, and then waits
        until they are gone: every client would come back in the same instant. By then it has
        stopped listening, and refuses handshakes that are under way. To be deleted when uvicorn
        spreads the closing itself.
        """
        self._protocol.shutdown = self._shut_down_later

    def _shut_down_later(self) -> None:
        protocol = self._protocol
        window = settings.WS4REDIS_CLOSE_WINDOW if _is_open(protocol) else 0
        patience: float | None = protocol.config.timeout_graceful_shutdown
        if patience is not None:
            # What is still open after that gets no close frame at all: the process ends itself.
            window = min(window, patience / 2)
        delay = random.uniform(0, window)  # noqa: S311 # no secret
        asyncio.get_running_loop().call_later(delay, _shut_down, protocol)

    def release(self) -> None:
        """Undo what was changed."""
        for name in ("connection_lost", "shutdown", "pause_writing", "resume_writing"):
            vars(self._protocol).pop(name, None)
        if self._gate is not None:
            self._gate.resume_reading(_PEER)


class _Gate:
    """A transport that is read while nobody has paused that.

    Uvicorn and the peer pause and resume reading for reasons of their own, and each would undo what
    the other one has done.
    """

    __slots__ = ("_paused", "_protocol", "_transport", "is_closing", "write")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport = transport = protocol.transport
        # A message may have come with the very handshake.
        is_paused = self._is_open and not transport.is_reading()
        self._paused = _SERVER if is_paused else 0
        # Once for each message, so without the way round below.
        self.write, self.is_closing = transport.write, transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def _is_open(self) -> bool:
        # One of asyncio's for TLS, once it has been closed, raises when it is asked for more.
        return not self._transport.is_closing()

    def pause_reading(self, who: int = _SERVER) -> None:
        """Read no more until this one lets us."""
        if not self._paused and self._is_open:
            self._transport.pause_reading()
        self._paused |= who

    def resume_reading(self, who: int = _SERVER) -> None:
        """Read on, unless somebody else has paused that."""
        if self._paused & who:
            self._paused &= ~who
            if not self._paused and self._is_open:
                self._transport.resume_reading()

    # In place of uvicorn's own methods

    def pause_writing(self) -> None:
        """Read no more of a client that does not read."""
        type(self._protocol).pause_writing(self._protocol)
        self.pause_reading(_PEER)

    def resume_writing(self) -> None:
        """Read on, as the client does."""
        type(self._protocol).resume_writing(self._protocol)
        self.resume_reading(_PEER)


def _gate_of(protocol: Any) -> _Gate | None:
    """Put a gate before the transport of a connection; None if that is lost already."""
    if isinstance(protocol.transport, _Gate | None):
        return protocol.transport
    gate = protocol.transport = _Gate(protocol)
    reader = getattr(protocol, "reader", None)  # of the implementation on websockets
    if isinstance(reader, asyncio.StreamReader):
        reader._transport = gate  # type: ignore[attr-defined] # not public
    return gate


def _send_at_once(transport: Any) -> None:
    """Have the system send a message at once, though the client has yet to confirm the last one.

    Event loops see to that themselves where they know a connection as one of TCP. They do not where
    uvicorn was handed its listening socket (``--fd``), or hands it to ``--workers``, as do workers
    of gunicorn: it takes that for a Unix socket, or does not say that it speaks TCP. Then a message
    may wait for 40 ms. To be deleted when uvicorn tells family and protocol of such a socket.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # a Unix socket, or one that is gone
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_open(protocol: Any) -> bool:
    if hasattr(protocol, "handshake_completed_event"):  # the implementation on websockets
        return bool(protocol.handshake_completed_event.is_set())
    return bool(protocol.handshake_complete)


def _shut_down(protocol: Any) -> None:
    if "shutdown" in vars(protocol):
        type(protocol).shutdown(protocol)
