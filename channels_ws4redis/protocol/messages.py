"""Messages on their way to a client, and the frames that a client sends and gets.

Pure functions and values: nothing here talks to a network or looks at the settings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Final, NamedTuple

from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.texts import shown

#: The WebSocket subprotocol that carries positions; every other client gets raw frames.
SUBPROTOCOL: Final = "ws4redis.v1"

#: The ``type`` of a message of this package in the channel layer.
EVENT_TYPE: Final = "ws4redis.event"

#: The ``type`` of a `Purge` there.
PURGE_TYPE: Final = "ws4redis.purge"

#: The ``type`` of a `Question` there.
QUESTION_TYPE: Final = "ws4redis.question"

#: The epoch of a message that is not kept, and so has no number in its channel.
UNKEPT: Final = "-"

#: Characters in a frame of a client that is more than a payload to be published. Understanding JSON
#: of many small parts takes the event loop's time.
MAX_SMALL_FRAME: Final = 64 * 1024

_PAYLOAD = {"type", "data", "base64"}


def is_heartbeat(payload: bytes | bytearray | memoryview | str, heartbeat: str | None) -> bool:
    """Tell whether a payload is the heartbeat.

    :param heartbeat: the value of ``WS4REDIS_HEARTBEAT``; nothing is a heartbeat if it is None.
    """
    if heartbeat is None:
        return False
    return payload == (heartbeat if isinstance(payload, str) else heartbeat.encode())


class Position(NamedTuple):
    """Where a channel's history stands: the identity of that history, and the last offset in it."""

    epoch: str
    offset: int


class Event:
    """One published message on its way to the sockets of a channel.

    All sockets share the frames of an event, which are built when the first socket needs them: a
    message is encoded once per process, however many sockets get it.
    """

    __slots__ = ("__dict__", "channel", "epoch", "offset", "payload", "sender")

    def __init__(
        self, channel: str, payload: bytes, epoch: str = "", offset: int = 0, sender: str = ""
    ) -> None:
        self.channel = channel
        self.payload = payload
        self.epoch = epoch
        #: The number of the message in its channel, without gaps; 0 if it is not kept, or if a
        #: foreign program, which counts nothing, has published it.
        self.offset = offset
        #: The identity of the socket whose client has published it; "" for Django code.
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
    def _frames(self) -> dict[str | None, Frame]:
        """The frames that have been made, by label."""
        return {}

    def frame(self, label: str | None) -> Frame:
        """Return the frame for a client.

        :param label: what the client calls the channel, in the package's own protocol; None for a
            raw frame, which is the payload alone: text if it is UTF-8, binary otherwise.
        """
        frame = self._frames.get(label)
        if frame is None:
            frame = self._frames[label] = self._make(label)
        return frame

    def _make(self, label: str | None) -> Frame:
        if label is None:
            return Frame(self.payload if self.text is None else self.text)
        body: dict[str, Any] = {"type": "message", "channel": label}
        if self.offset:
            body |= {"epoch": self.epoch, "offset": self.offset}
        if self.text is None:
            body["base64"] = base64.b64encode(self.payload).decode()
        else:
            body["data"] = self.text
        return json_frame(body)

    def forget_wire(self) -> None:
        """Let go of the bytes that were made for connections; frames may wait for slow clients."""
        for frame in self._frames.values():
            frame.forget_wire()

    def bare(self) -> Event:
        """Return the message without the frames that have been made of it."""
        return Event(self.channel, self.payload, self.epoch, self.offset, self.sender)

    def later(self, label: str | None) -> Callable[[], Frame]:
        """Return what makes `frame` anew, and until then holds no more than the payload.

        JSON makes six bytes of a control character, and Python takes four for each character of a
        text with a single emoji in it.
        """
        return partial(self.bare().frame, label)


class Purge(Event):
    """Says that all that was published before it has been deleted.

    It has a number like a message, so that whoever has missed it finds a hole. It has no payload: a
    client that gets raw frames is sent nothing.
    """

    __slots__ = ()

    def __init__(self, channel: str, epoch: str, offset: int) -> None:
        super().__init__(channel, b"", epoch, offset)

    def bare(self) -> Purge:
        """Return the purge without the frames that have been made of it."""
        return Purge(self.channel, self.epoch, self.offset)

    def _make(self, label: str | None) -> Frame:
        if label is None:
            return super()._make(label)
        body = {"type": "purged", "channel": label, "epoch": self.epoch, "offset": self.offset}
        return json_frame(body)


class Question(NamedTuple):
    """Asks each process how many sockets hear a channel, and goes the way of its messages."""

    channel: str
    #: What the answers are collected under; no other question has the same.
    token: str


def json_frame(body: dict[str, Any]) -> Frame:
    """Return the frame that sends ``body`` as JSON text."""
    return Frame(json.dumps(body, separators=(",", ":")))


class ProtocolError(ValueError):
    """A frame of the package's own protocol that cannot be understood."""


def parse_frame(text: str) -> dict[str, Any]:
    """Return the JSON object in a client's text frame.

    :raises ProtocolError: if it is not a JSON object with a ``type``.
    """
    is_large = len(text) > MAX_SMALL_FRAME
    try:
        body = json.loads(text, object_pairs_hook=_without_repetitions if is_large else None)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise ProtocolError("not a JSON object with a 'type'")
    if is_large and not _is_payload_alone(body):
        raise ProtocolError(f"{len(text)} characters, and not a payload alone")
    return body


def _is_payload_alone(body: dict[str, Any]) -> bool:
    is_text = all(isinstance(value, str) for value in body.values())
    return body["type"] == "publish" and body.keys() <= _PAYLOAD and is_text


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Behind a name that comes twice it could hide any number of parts.

    :raises ValueError: if a name does.
    """
    body = dict(pairs)
    if len(body) < len(pairs):
        raise ValueError("a name comes twice")
    return body


def parse_payload(body: dict[str, Any]) -> bytes:
    """Return the payload of a client's ``publish`` frame.

    :raises ProtocolError: if it has neither ``data`` (text) nor ``base64``.
    """
    try:
        if isinstance(body.get("data"), str):
            # JSON may contain half of a surrogate pair, which cannot be encoded and so not be sent.
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
            raise ProtocolError(f"the position of {shown(label)} is not an epoch and an offset")
        positions[label] = Position(epoch, offset)
    return positions
