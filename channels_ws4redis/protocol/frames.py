"""A message to a client, in every form in which a server takes it."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: The first byte of a frame that is a whole message (RFC 6455, section 5.2).
_TEXT, _BINARY = 0x81, 0x82


@dataclass(frozen=True)
class Frame:
    """One message to a client. All sockets that are sent the same share it.

    Each of its forms is made once, when the first socket needs it.

    :param data: text, or bytes for a binary frame.
    """

    data: str | bytes

    @cached_property
    def event(self) -> dict[str, Any]:
        """The event for the ``send`` of an ASGI server."""
        kind = "text" if isinstance(self.data, str) else "bytes"
        return {"type": "websocket.send", kind: self.data}

    @cached_property
    def wire(self) -> bytes:
        """The bytes for the connection: one frame of a server, and so not masked; not compressed.

        :raises UnicodeEncodeError: for half of a surrogate pair, as no server can send that.
        """
        is_text = isinstance(self.data, str)
        payload = self.data.encode() if isinstance(self.data, str) else self.data
        first, size = _TEXT if is_text else _BINARY, len(payload)
        if size < 126:
            return struct.pack("!BB", first, size) + payload
        if size < 2**16:
            return struct.pack("!BBH", first, 126, size) + payload
        return struct.pack("!BBQ", first, 127, size) + payload

    @cached_property
    def size(self) -> int:
        """The bytes of the message on the wire, or in memory where these are more.

        Python takes four bytes for each character of a text with a single emoji in it.
        """
        if isinstance(self.data, bytes) or self.data.isascii():
            return len(self.data)
        return max(len(self.data.encode("utf-8", "surrogatepass")), sys.getsizeof(self.data))

    def forget_wire(self) -> None:
        """Let go of the bytes for the connection, which are made anew if another socket needs them.

        A frame that waits for a slow client would take twice its room with them.
        """
        vars(self).pop("wire", None)
