"""When a frame may be written straight to the transport of a server, past the server's ``send``.

For a message to a socket at rest a server's ``send`` makes a frame and hands it to the transport.
The frame is the same for all sockets, so it is made once, and the peer hands it over. Whenever
``send`` might do anything else it is called: if the client reads too slowly, if the connection is
being closed, if the implementation is not exactly as expected, or if somebody has changed it. The
transport keeps what it is given in its order, so either way may follow on the other. To be deleted
when servers take one message for many sockets.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

#: Tells how large a frame, in bytes, may be written straight to a connection at this moment.
Room = Callable[[Any], float]

NONE, ANY = -1, math.inf

#: Where compression has been agreed on, a larger frame is left to the server, which compresses it.
#: One of this size needs one packet in any case. A frame that is not compressed may stand among
#: others that are (RFC 7692, section 6).
UNCOMPRESSED = 1024


def room_of(protocol: Any) -> Room | None:
    """Return what tells the room on a connection; None if it always has to be ``send``.

    :param protocol: the server's object for the connection.
    """
    kind = type(protocol)
    name = f"{kind.__module__}.{kind.__qualname__}"
    known = _IMPLEMENTATIONS.get(name)
    try:
        strange = "not known" if known is None else known.strange(protocol)
        if known is not None and not strange:
            return known.room(attrgetter(known.open_state)(protocol))
    except AttributeError as error:
        strange = str(error)
    logger.debug("All messages take the send of %s, which is not as expected: %s", name, strange)
    return None


class _Implementation(NamedTuple):
    """What is expected of one implementation of a server. Names begin at the protocol object."""

    #: Makes what tells the room, of the state in which a socket is open.
    room: Callable[[Any], Room]
    #: Where that state is found; what it belongs to need not be installed.
    open_state: str
    #: What `room` looks at.
    looked_at: tuple[str, ...]
    #: What has to be false. With any of these the server does more for each frame, such as logging.
    off: tuple[str, ...]
    #: By package, the functions that are passed over, and have to be the package's own.
    passed_over: Mapping[str, tuple[str, ...]]
    #: The logger to which the server tells each frame at the level DEBUG, where `off` has no sign.
    log: str = ""

    def strange(self, protocol: Any) -> str:
        """Return what is not as expected, or nothing.

        :raises AttributeError: if something is not there.
        """
        for name in self.looked_at:
            attrgetter(name)(protocol)
        strange = [name for name in self.off if attrgetter(name)(protocol)]
        for package, names in self.passed_over.items():
            strange += [n for n in names if not written_in(package, attrgetter(n)(protocol))]
        if self.log and logging.getLogger(self.log).isEnabledFor(logging.DEBUG):
            strange.append(f"{self.log} logs each frame")
        return ", ".join(strange)


def written_in(package: str, function: Any) -> bool:
    """Tell whether the very code of a function is a package's.

    Decorators copy ``__module__``. Other wrappers, as tools for tracing use them, have all
    attributes of what they wrap, so its type is what tells.
    """
    inner = function.__func__ if type(function) is MethodType else function
    if type(inner) is not FunctionType:
        return False
    module: str = inner.__globals__.get("__name__", "")
    return module.partition(".")[0] == package


@functools.cache
def _on_sansio(open_state: Any) -> Room:
    def room(protocol: Any) -> float:
        connection = protocol.conn
        if (
            connection.state is not open_state
            or connection.expect_continuation_frame
            or protocol.disconnected
            or protocol.transport.is_closing()
            or not protocol.writable.is_set()
        ):
            return NONE
        return UNCOMPRESSED if connection.extensions else ANY

    return room


@functools.cache
def _on_wsproto(open_state: Any) -> Room:
    def room(protocol: Any) -> float:
        if (
            protocol.conn.state is not open_state
            or protocol.disconnected
            or protocol.transport.is_closing()
            or not protocol.writable.is_set()
        ):
            return NONE
        return UNCOMPRESSED if protocol.config.ws_per_message_deflate else ANY

    return room


@functools.cache
def _on_websockets(open_state: Any) -> Room:
    def room(protocol: Any) -> float:
        if (
            protocol.state is not open_state
            or protocol.transfer_data_task.done()  # a task that begins as the socket opens
            or protocol._fragmented_message_waiter is not None
            or protocol._paused
            or protocol.transport.is_closing()
        ):
            return NONE
        return UNCOMPRESSED if protocol.extensions else ANY

    return room


@functools.cache
def _on_daphne(open_state: Any) -> Room:
    def room(protocol: Any) -> float:
        if (
            protocol.state != open_state
            or protocol.send_state != protocol.SEND_STATE_GROUND  # a message is not yet ended
            or protocol.send_queue  # pieces that autobahn has yet to hand to the transport
            or protocol._perMessageCompress is not None
        ):
            return NONE
        return protocol.maxMessagePayloadSize or ANY

    return room


_IMPLEMENTATIONS = {
    "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol": _Implementation(
        _on_sansio,
        "conn.state.__class__.OPEN",
        looked_at=(
            "conn.state",
            "conn.expect_continuation_frame",
            "conn.extensions",
            "disconnected",
            "transport.is_closing",
            "writable.is_set",
        ),
        off=("conn.debug",),
        passed_over={
            "uvicorn": ("send",),
            "websockets": (
                "conn.send_text",
                "conn.send_binary",
                "conn.send_frame",
                "conn.data_to_send",
            ),
        },
    ),
    "uvicorn.protocols.websockets.wsproto_impl.WSProtocol": _Implementation(
        _on_wsproto,
        "conn.state.__class__.OPEN",
        looked_at=(
            "conn.state",
            "config.ws_per_message_deflate",
            "disconnected",
            "transport.is_closing",
            "writable.is_set",
        ),
        off=(),
        passed_over={"uvicorn": ("send",), "wsproto": ("conn.send",)},
    ),
    "uvicorn.protocols.websockets.websockets_impl.WebSocketProtocol": _Implementation(
        _on_websockets,
        "state.__class__.OPEN",
        looked_at=(
            "state",
            "_fragmented_message_waiter",
            "_paused",
            "extensions",
            "transport.is_closing",
        ),
        off=("debug",),
        passed_over={
            "uvicorn": ("asgi_send",),
            "websockets": ("send", "ensure_open", "write_frame", "write_frame_sync", "drain"),
        },
    ),
    "daphne.ws_protocol.WebSocketProtocol": _Implementation(
        _on_daphne,
        "STATE_OPEN",
        looked_at=(
            "state",
            "send_state",
            "SEND_STATE_GROUND",
            "send_queue",
            "_perMessageCompress",
            "maxMessagePayloadSize",
        ),
        off=("logOctets", "logFrames", "maskServerFrames", "autoFragmentSize", "trackedTimings"),
        passed_over={
            "daphne": ("handle_reply", "serverSend"),
            "autobahn": ("sendMessage", "sendFrame", "sendData"),
        },
        log="daphne.ws_protocol",
    ),
}
