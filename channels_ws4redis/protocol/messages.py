"""Messages on their way to a client, and the frames that it gets.

Pure functions and values: nothing here talks to a network or looks at the settings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Final, NamedTuple

from channels_ws4redis.protocol.frames import Frame

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

#: Frames with the id of a subscription that one message remembers: so many, or as many as have so
#: many bytes, but some in any case. It is clients who choose the ids.
MAX_NUMBERED, NUMBERED_BYTES, LEAST_NUMBERED = 64, 4 * 1024 * 1024, 4


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


#: Where channels stand, by name or by label.
Positions = dict[str, Position]


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

    @cached_property
    def _numbered(self) -> dict[tuple[str, int], Frame]:
        """The frames with an id that were asked for last, by label and id; the latest is last."""
        return {}

    def frame(self, label: str | None, number: int = 0) -> Frame:
        """Return the frame for a client.

        :param label: what the client calls the channel, in the package's own protocol; None for a
            raw frame, which is the payload alone: text if it is UTF-8, binary otherwise.
        :param number: the id of the client's subscription; 0 for that of its URL.
        """
        if number and label is not None:
            return self._frame_with_id(label, number)
        frame = self._frames.get(label)
        if frame is None:
            frame = self._frames[label] = self._make(label)
        return frame

    def _frame_with_id(self, label: str, number: int) -> Frame:
        """Return a frame that all share who have given the same id.

        The payload has been encoded once for all ids. Of ids that few have, frames are forgotten.
        """
        numbered = self._numbered
        frame = numbered.pop((label, number), None)
        if frame is None:
            frame = with_id(self.frame(label), number)
        numbered[label, number] = frame
        if len(numbered) > LEAST_NUMBERED:
            most = min(MAX_NUMBERED, NUMBERED_BYTES // (frame.size or 1))
            if len(numbered) > max(LEAST_NUMBERED, most):
                del numbered[next(iter(numbered))]
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
        for frame in (*self._frames.values(), *self._numbered.values()):
            frame.forget_wire()

    def bare(self) -> Event:
        """Return the message without the frames that have been made of it."""
        return Event(self.channel, self.payload, self.epoch, self.offset, self.sender)

    def later(self, label: str | None, number: int = 0) -> Callable[[], Frame]:
        """Return what makes `frame` anew, and until then holds no more than the payload.

        JSON makes six bytes of a control character, and Python takes four for each character of a
        text with a single emoji in it.
        """
        return partial(self.bare().frame, label, number)


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


def with_id(frame: Frame, number: int) -> Frame:
    """Return a frame of JSON text with the id of a subscription in it."""
    return Frame(f'{{"id":{number},{str(frame.data)[1:]}')
