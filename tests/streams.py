"""A client on a bare connection: wsproto understands what comes, however it is cut into pieces."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Self

from wsproto import ConnectionType, WSConnection, events
from wsproto.connection import ConnectionState
from wsproto.extensions import PerMessageDeflate

from tests.site.streams import Order

#: As many bytes are read at a time.
PIECES = [1, 2, 3, 10, 127, 1000, 4096, 2**16]


class Stream:
    """A socket on which an order was given; see `tests.site.streams`.

    :param where: a port of this machine, or the path of a Unix socket.
    :param tls: the context for a server with TLS.
    :param compressed: whether to offer permessage-deflate.
    :param pieces: bytes that are read at a time, one or another of these.
    :param slow: whether the client reads so little at once that a server has to wait for it.
    """

    def __init__(
        self,
        where: int | str,
        order: Order,
        *,
        tls: ssl.SSLContext | None = None,
        compressed: bool = False,
        pieces: Sequence[int] = PIECES,
        slow: bool = False,
    ) -> None:
        self._chance = Random(order.seed)
        self._pieces = pieces
        self._slow = slow
        # A server may answer a ping even after its close frame, which is none of our matter.
        self._busy = order.end == "report"
        self._connection = WSConnection(ConnectionType.CLIENT)
        bare = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        if slow:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bare.settimeout(30)
        bare.connect(where if isinstance(where, str) else ("127.0.0.1", where))
        self._socket: Any = bare if tls is None else tls.wrap_socket(bare)
        extensions = [PerMessageDeflate()] if compressed else []
        self.send(events.Request(host="127.0.0.1", target="/", extensions=extensions))
        self._events = self._arriving()
        accepted = next(self._events)
        assert isinstance(accepted, events.AcceptConnection), accepted
        assert bool(accepted.extensions) is compressed
        self.send(events.Message(str(order)))
        #: Why the server has closed the socket, once it has.
        self.closed: events.CloseConnection | None = None
        #: Pongs, and pings of the server, that have come among the messages.
        self.pongs = self.pings = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def send(self, event: events.Event) -> None:
        """Send something; a server that has gone does not mind."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(self._connection.send(event))

    def close(self) -> None:
        """Begin to close the socket."""
        self.send(events.CloseConnection(code=1000))

    def _arriving(self) -> Iterator[events.Event]:
        """Yield what comes, until the connection ends."""
        while True:
            if self._slow and self._chance.random() < 0.02:
                time.sleep(0.02)
            try:
                data = self._socket.recv(self._chance.choice(self._pieces))
            except ConnectionResetError:
                return
            if not data:
                return
            self._connection.receive_data(data)
            yield from self._connection.events()

    @property
    def _is_open(self) -> bool:
        return self._connection.state is ConnectionState.OPEN

    def messages(self) -> Iterator[str | bytes]:
        """Yield the messages that come, until the connection ends; send something now and then.

        Whatever comes after a close frame is an error.
        """
        parts: list[Any] = []
        for event in self._events:
            if isinstance(event, events.Message):
                parts.append(event.data)
                if event.message_finished:
                    yield type(event.data)().join(parts)
                    parts.clear()
                    if self._busy and self._is_open and self._chance.random() < 0.1:
                        self._say_something()
            elif isinstance(event, events.Pong):
                self.pongs += 1
            elif isinstance(event, events.Ping):
                self.pings += 1
                if self._is_open:
                    self.send(event.response())
            elif isinstance(event, events.CloseConnection):
                self.closed = event
                if self._connection.state is ConnectionState.REMOTE_CLOSING:
                    self.send(event.response())

    def _say_something(self) -> None:
        """Ping, and send a message in pieces, with a ping between them."""
        self.send(events.Ping(b"are you there"))
        self.send(events.Message("a text in ", message_finished=False))
        self.send(events.Ping(b""))
        self.send(events.Message("pieces"))
