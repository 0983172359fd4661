"""Lives that once did harm to a server or to others, or came near to it."""

from __future__ import annotations

from tests.fuzz.frames import BINARY, PING, TEXT, deflated, frame
from tests.fuzz.strangers import Leaving, Life


def opening(*headers: str, path: str = "/ws/found?subscribe-broadcast&publish-broadcast") -> bytes:
    """Return the request that opens a socket, with further headers."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


V1 = "Sec-WebSocket-Protocol: ws4redis.v1"
MANY = b"[" + b"[]," * 300_000 + b"0]"

FOUND = {
    # The event loop was busy with the JSON of one client for as long as that client pleased.
    "JSON behind a payload": Life(
        (
            opening(V1),
            frame(TEXT, b'{"type":"hello"}'),
            *[frame(TEXT, b'{"type":"publish","data":' + MANY + b',"data":"x"}')] * 5,
        )
    ),
    "JSON instead of a payload": Life(
        (opening(V1), *[frame(TEXT, b'{"type":"x","a":' + MANY + b"}")] * 5)
    ),
    # Memory grew by as much as the client sent, or by as much as it did not read.
    "pings without end": Life(
        (opening(), *[frame(PING, b"p" * 125) * 5000] * 5), Leaving.RESET, reads=False
    ),
    "messages without end": Life(
        (opening(), *[frame(BINARY, b"m" * 1000) * 500] * 5), Leaving.RESET, reads=False
    ),
    "a bomb": Life(
        (
            opening("Sec-WebSocket-Extensions: permessage-deflate"),
            frame(BINARY, deflated(bytes(2**26)), rsv=4),
        ),
        pause=0.5,
    ),
    # Daphne says in its scope what the client has sent, unquoted, and takes no other answer.
    "a quoted subprotocol": Life((opening("Sec-WebSocket-Protocol: %61%0d%0aX:%20y"),), pause=0.2),
    # A line of the log as long as the frame, with whatever would move a terminal's cursor.
    "a long label": Life(
        (
            opening(V1),
            frame(TEXT, b'{"type":"hello","positions":{"' + b"\\u001b" * 9000 + b'":5}}'),
        )
    ),
}
