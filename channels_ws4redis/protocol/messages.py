"""Messages: what a publisher is given, what travels through the channel layer, what a client gets.

Pure functions and values; nothing here talks to a network.
"""

from __future__ import annotations

import base64
import json
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

from channels_ws4redis.conf import settings

#: The WebSocket subprotocol that carries positions; every other client gets raw frames.
SUBPROTOCOL: Final = "ws4redis.v1"

#: The ``type`` of a message of this package in the channel layer.
EVENT_TYPE: Final = "ws4redis.event"

Frame = dict[str, Any]


class RedisMessage(bytes):
    """The payload of a message, as bytes.

    Built from ``str``, ``bytes`` or ``bytearray``. As in legacy, None and the heartbeat give None
    instead of a message, so that ``if message:`` holds back what must not be published.

    :raises ValueError: for anything else; legacy silently turned it into None.
    """

    def __new__(cls, value: Any) -> Self | None:  # type: ignore[misc] # None: legacy contract
        """Make a message, or None."""
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], bytes):
            # A pub/sub reply of redis-py, as legacy code passes it on.
            value = value[2] if value[0] == b"message" else None
        if value is None:
            return None
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError(
                f"A message cannot be made from {value!r}; pass str or bytes, for instance "
                "json.dumps(value)."
            )
        if is_heartbeat(value):
            return None
        return super().__new__(cls, value)


def is_heartbeat(payload: bytes | bytearray | memoryview | str) -> bool:
    """Tell whether a payload is the configured heartbeat."""
    heartbeat = settings.WS4REDIS_HEARTBEAT
    if heartbeat is None:
        return False
    return payload == (heartbeat if isinstance(payload, str) else heartbeat.encode())


class Position(NamedTuple):
    """Where a channel's history stands: the identity of that history, and the last offset in it."""

    epoch: str
    offset: int


class Event:
    """One published message on its way to the sockets of a channel.

    Its frames are built on first use and shared by all sockets, so encoding costs once per
    process and not once per socket.
    """

    __slots__ = ("__dict__", "channel", "epoch", "offset", "payload", "sender")

    def __init__(
        self, channel: str, payload: bytes, epoch: str = "", offset: int = 0, sender: str = ""
    ) -> None:
        self.channel = channel
        self.payload = payload
        self.epoch = epoch
        #: Contiguous within the channel; 0 for what a foreign program published.
        self.offset = offset
        #: Identity of the publishing socket, "" for Django code.
        self.sender = sender

    def __repr__(self) -> str:
        return f"<Event {self.channel} {self.epoch}:{self.offset} {self.payload[:40]!r}>"

    @cached_property
    def text(self) -> str | None:
        """The payload as text, or None if it is not UTF-8."""
        try:
            return self.payload.decode()
        except UnicodeDecodeError:
            return None

    @cached_property
    def raw_frame(self) -> Frame:
        """The ASGI event with the payload alone: text if it is UTF-8, binary otherwise."""
        if self.text is None:
            return {"type": "websocket.send", "bytes": self.payload}
        return {"type": "websocket.send", "text": self.text}

    def protocol_frame(self, label: str) -> Frame:
        """The ASGI event in the package's own protocol, under the client's label of the channel."""
        frames: dict[str, Frame] = self.__dict__.setdefault("frames", {})
        if label not in frames:
            body: dict[str, Any] = {"type": "message", "channel": label}
            if self.offset:
                body |= {"epoch": self.epoch, "offset": self.offset}
            if self.text is None:
                body["base64"] = base64.b64encode(self.payload).decode()
            else:
                body["data"] = self.text
            frames[label] = json_frame(body)
        return frames[label]


def json_frame(body: dict[str, Any]) -> Frame:
    """Return the ASGI event that sends ``body`` as JSON text."""
    return {"type": "websocket.send", "text": json.dumps(body, separators=(",", ":"))}


class ProtocolError(ValueError):
    """A frame of the package's own protocol that cannot be understood."""


def parse_frame(text: str) -> dict[str, Any]:
    """Return the JSON object in a client's text frame.

    :raises ProtocolError: if it is not a JSON object with a ``type``.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise ProtocolError("not a JSON object with a 'type'")
    return body


def parse_payload(body: dict[str, Any]) -> bytes:
    """Return the payload of a client's ``publish`` frame.

    :raises ProtocolError: if it has neither ``data`` (text) nor ``base64``.
    """
    try:
        if isinstance(body.get("data"), str):
            # A lone surrogate is legal in JSON but is no text that could be sent on.
            return str(body["data"]).encode()
        if isinstance(body.get("base64"), str):
            return base64.b64decode(body["base64"], validate=True)
    except ValueError as error:  # of str.encode(), or of b64decode() in several kinds
        raise ProtocolError(f"bad payload: {error}") from error
    raise ProtocolError("'publish' needs 'data' or 'base64'")


def parse_positions(value: Any) -> dict[str, Position]:
    """Return the positions in a client's ``hello`` frame, by channel label.

    :raises ProtocolError: if they are not ``{label: {"epoch": str, "offset": int}}``.
    """
    if not isinstance(value, dict):
        raise ProtocolError("'positions' is not an object")
    positions = {}
    for label, position in value.items():
        epoch = position.get("epoch") if isinstance(position, dict) else None
        offset = position.get("offset") if isinstance(position, dict) else None
        if not isinstance(epoch, str) or type(offset) is not int or offset < 0:
            raise ProtocolError(f"the position of {label!r} is not an epoch and an offset")
        positions[label] = Position(epoch, offset)
    return positions
