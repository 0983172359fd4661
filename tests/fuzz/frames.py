"""WebSocket frames as bytes (RFC 6455, section 5.2), right ones and wrong ones."""

from __future__ import annotations

import struct
import zlib

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    size: int | None = None,
) -> bytes:
    """Return a frame; it is masked by zeros, so that its payload can be read.

    :param rsv: the three reserved bits; 4 says that the payload is compressed.
    :param size: what the frame says of its size, if that is not the truth.
    """
    size = len(payload) if size is None else size
    mask_bit = 128 if masked else 0
    head = bytes([(128 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 2**16:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def fragments(opcode: int, parts: list[bytes], between: bytes = b"") -> bytes:
    """Return a message in fragments.

    :param between: other frames, sent after each fragment but the last.
    """
    last = len(parts) - 1
    frames = [
        frame(CONTINUATION if index else opcode, part, fin=index == last)
        for index, part in enumerate(parts)
    ]
    return between.join(frames)


def deflated(payload: bytes) -> bytes:
    """Return a payload as permessage-deflate has it (RFC 7692, section 7.2.1)."""
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
