"""What a stranger does to a server: one random life after the other, each made from a seed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import json
import socket
import struct
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes

from tests.fuzz.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    deflated,
    fragments,
    frame,
)

#: Seconds in which a server must have taken what a stranger sends; then the stranger gives up.
PATIENCE = 2.0

#: What may stand in the place of a text. Few facilities, or what is stored would grow for ever.
NASTY = [
    b"", b"\0", b"\xff\xfe", b"\xc3\xa9", b"\xe2\x80\xa8", b"\r\nX: y", b"a\x0bX: y", b"a\x85X: y",
    b"%0d%0aX:%20y", b"../..", b"%2e%2e/", b"{}:events", b"a}:history", b"__proto__", b"x" * 300,
    b"x" * 5000, b"%", b"%zz", b"{x}", b" ",
]  # fmt: skip
FACILITIES = [*(b"f%d" % number for number in range(20)), *NASTY]
FLAGS = [
    f"{verb}-{audience}".encode()
    for verb in ("subscribe", "publish")
    for audience in ("broadcast", "user", "group", "session", "nobody")
]
HEADERS = {
    b"Origin": [b"null", b"https://evil.example", b"http://[::1", b"http://a@b", *NASTY],
    b"Cookie": [
        b"sessionid=" + b"z" * 32, b"sessionid=", b"sessionid=\0", b";;=;", b'sessionid="\\073"',
        b"sessionid=" + b"z" * 5000, *NASTY,
    ],
    b"Host": [b"evil.example", b"127.0.0.1:99999", b"[::1", b"a b", *NASTY],
    b"Daphne-Root-Path": [b"/ws", b"/ws/a", b"%ff", *NASTY],
    b"Sec-WebSocket-Protocol": [
        b"ws4redis.v1", b"soap", b"soap, ws4redis.v1", b",", b"ws4redis.v1," * 400, b"a b", *NASTY,
    ],
    b"Sec-WebSocket-Extensions": [
        b"permessage-deflate; client_max_window_bits", b"permessage-deflate, permessage-deflate",
        b"permessage-deflate; server_max_window_bits=99", b"x-webkit-deflate-frame", b";;", *NASTY,
    ],
    b"Sec-WebSocket-Version": [b"8", b"0", b"13, 8", *NASTY],
    b"Sec-WebSocket-Key": [b"AAAA", *NASTY],
    b"X-Forwarded-For": [b"1.2.3.4", *NASTY],
    b"X-Forwarded-Proto": [b"https", b"gopher", *NASTY],
    b"X-Forwarded-Host": [b"evil.example", *NASTY],
    b"Content-Length": [b"5", b"-1", *NASTY],
    b"Transfer-Encoding": [b"chunked", *NASTY],
    b"Upgrade": [b"h2c", *NASTY],
}  # fmt: skip


class Leaving(enum.Enum):
    """How a connection ends."""

    CLOSE = enum.auto()
    #: Without a word: what is under way is lost.
    RESET = enum.auto()
    #: The stranger sends nothing more, and waits.
    HALF = enum.auto()


@dataclass(frozen=True)
class Life:
    """What one stranger does."""

    #: Sent one after the other.
    pieces: tuple[bytes, ...]
    leaving: Leaving = Leaving.CLOSE
    #: Whether the stranger reads what comes back, the answer to the handshake left out.
    reads: bool = True
    #: Whether the stranger waits for the answer to the handshake before anything else is sent.
    greets: bool = True
    #: Seconds between two pieces, and before leaving.
    pause: float = 0.0


def make_life(seed: str) -> Life:
    """Return a random life, the same one for the same seed."""
    random = Random(seed)
    speaks, packed = random.random() < 0.5, random.random() < 0.3
    mistakes = 0 if random.random() < 0.7 else random.randint(1, 4)
    count = random.choice([0, 1, 2, 5, 20])
    pieces = [
        handshake(random, speaks, packed, mistakes),
        *(on_the_wire(random, speaks) for _ in range(count)),
    ]
    if random.random() < 0.15:
        index = random.randrange(len(pieces))
        pieces[index] = damaged(random, pieces[index])
    if random.random() < 0.1:
        data, size = b"".join(pieces)[:3000], random.choice([1, 7, 100])
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return Life(
        tuple(pieces),
        random.choice(list(Leaving)),
        reads=random.random() < 0.8,
        greets=random.random() < 0.8,
        pause=random.choice([0, 0, 0, 0.01, 0.2]),
    )


def damaged(random: Random, data: bytes) -> bytes:
    """Return bytes with something changed, left out, or put in."""
    at, junk = random.randint(0, len(data)), random.randbytes(random.choice([1, 4, 60]))
    before, after = data[:at], data[at:]
    changed = before + junk + after[1:]
    return random.choice([before, after, changed, before + junk + after, data + data])


# The handshake


def handshake(random: Random, speaks: bool, packed: bool, mistakes: int = 0) -> bytes:
    """Return the request that opens a socket.

    :param speaks: whether it offers the package's own protocol.
    :param packed: whether it offers compression.
    :param mistakes: how many headers hold something else than they should.
    """
    headers = {
        b"Host": [b"127.0.0.1"],
        b"Upgrade": [b"websocket"],
        b"Connection": [b"Upgrade"],
        b"Sec-WebSocket-Version": [b"13"],
        b"Sec-WebSocket-Key": [base64.b64encode(random.randbytes(16))],
    }
    if speaks:
        headers[b"Sec-WebSocket-Protocol"] = [b"ws4redis.v1"]
    if packed:
        headers[b"Sec-WebSocket-Extensions"] = [b"permessage-deflate"]
    for _ in range(mistakes):
        name = random.choice(list(HEADERS))
        value = random.choice(HEADERS[name])
        headers[name] = random.choice(
            [[value], [*headers.get(name, []), value], [value, value], []]
        )
    method = random.choices([b"GET", b"POST", b"HEAD", b"\xff"], [30, 1, 1, 1])[0]
    lines = [method + b" " + target(random) + b" HTTP/1.1"]
    lines += [name + b": " + value for name, values in headers.items() for value in values]
    return b"\r\n".join([*lines, b"", b""])


def target(random: Random) -> bytes:
    """Return a path and a query."""
    prefix = random.choices([b"/ws/", b"/ws", b"//ws/", b"/", b"http://a/ws/"], [40, 1, 1, 1, 1])[0]
    facility = random.choice(FACILITIES)
    if random.random() < 0.9:
        facility = quote_from_bytes(facility, safe=random.choice(["/", "/%{}:"])).encode()
    flags = random.choices([*FLAGS, b"echo"], k=random.choice([1, 2, 3, 12]))
    if random.random() < 0.7:
        flags += [b"subscribe-broadcast", b"publish-broadcast"]
    if random.random() < 0.1:
        flags.append(
            random.choice([b"%ff=%00", b"=", b";", b"subscribe-user=%F0", b"&" * 500, b"#", b"?"])
        )
    return prefix + facility + b"?" + b"&".join(flags)


# After it


def on_the_wire(random: Random, speaks: bool) -> bytes:
    """Return a message of some kind, in one of the forms that it may or may not have."""
    if random.random() < 0.25:
        return random.choice(WRONG_FRAMES)
    if speaks and random.random() < 0.9:
        opcode, payload = TEXT, json.dumps(protocol_frame(random)).encode()
    else:
        opcode, payload = random.choice([TEXT, BINARY]), some_bytes(random)
    form = random.random()
    if form < 0.6:
        return frame(opcode, payload)
    if form < 0.8:
        cuts = sorted(random.randint(0, len(payload)) for _ in range(random.choice([1, 2, 50])))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        return fragments(opcode, parts, random.choice([b"", frame(PING, b"between")]))
    if form < 0.9:
        return frame(opcode, deflated(payload), rsv=4)
    return frame(opcode, payload, rsv=random.randrange(8), masked=random.random() < 0.5)


def some_bytes(random: Random) -> bytes:
    """Return a payload: small ones most of the time, seldom one of more bytes than are allowed."""
    size = random.choices([0, 1, 10, 1000, 70_000, 2**20 - 1, 2**20 + 1], [1, 5, 30, 5, 2, 1, 1])[0]
    return random.choice([b"x" * size, random.randbytes(size), b"\x01" * size, b"[" * size])


def protocol_frame(random: Random) -> Any:
    """Return what a client of the package's own protocol may say, and what it may not."""
    kind = random.choices(
        ["hello", "publish", "ping", "pong", "message", "lost", "", 7], [5, 5, 5, 1, 1, 1, 1, 1]
    )[0]
    body: dict[str, Any] = {"type": kind}
    if kind == "hello" and random.random() < 0.9:
        body["positions"] = {random.choice(LABELS): position(random) for _ in range(3)}
    if kind == "publish":
        name = random.choice(["data", "base64", "other"])
        body[name] = random.choice(
            ["x", "eHg=", "\ud800", "\0", "y" * 70_000, 5, None, [[]] * 20_000]
        )
    if random.random() < 0.1:
        body[random.choice(["positions", "data", "base64", "x"])] = anything(random)
    return body if random.random() < 0.95 else anything(random)


LABELS = ["broadcast", "user", "session", "group:staff", "other:00", "__proto__", "\0", "x" * 300]


def position(random: Random) -> Any:
    """Return a position that a client may present, right or wrong."""
    if random.random() < 0.1:
        return anything(random)
    epochs = [
        "",
        ".",
        "-",
        "-0.0.0",
        "-.9e9",
        "[",
        "%",
        "01234567.01234567",
        "x" * 1000,
        "-" + "9" * 30 + ".0.1",
    ]
    offsets = [0, 1, -1, 2**63, 10**400, 1.5, True, None, "1"]
    return {"epoch": random.choice(epochs), "offset": random.choice(offsets)}


def anything(random: Random) -> Any:
    """Return any JSON."""
    deep: Any = 0
    for _ in range(random.choice([1, 20, 500])):
        deep = random.choice([[deep], {"a": deep}])
    return random.choice([None, True, -1, 1e308, "", "\ud800", [], {}, {"": {}}, deep])


#: What no client may send, or seldom does.
WRONG_FRAMES = [
    frame(CONTINUATION, b"of nothing"),
    frame(TEXT, b"begun", fin=False) + frame(TEXT, b"again"),
    frame(TEXT, b"begun", fin=False),
    frame(TEXT, b"\xff\xfe"),
    frame(TEXT, b"\xed\xa0\x80"),
    frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\xa9"),
    frame(TEXT, b"short", size=100),
    frame(TEXT, b"", size=2**62),
    frame(BINARY, b"", size=2**63),
    frame(BINARY, b"x" * 10, size=2**16 - 1),
    frame(3, b"reserved"),
    frame(11, b"reserved"),
    frame(PING, b"p" * 125) * 200,
    frame(PING, b"p" * 126),
    frame(PING, b"in parts", fin=False),
    frame(PONG, b"nobody asked"),
    frame(CLOSE),
    frame(CLOSE, b"\x03"),
    frame(CLOSE, struct.pack("!H", 1000) + b"bye"),
    frame(CLOSE, struct.pack("!H", 1005)),
    frame(CLOSE, struct.pack("!H", 65535)),
    frame(CLOSE, struct.pack("!H", 1000) + b"\xff"),
    frame(CLOSE, struct.pack("!H", 1000)) + frame(TEXT, b"after the end"),
    frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 500,
    frame(BINARY, deflated(b"\0" * 2**24), rsv=4),
    frame(TEXT, deflated(b"[" * 2**21), rsv=4),
    frame(TEXT, b"no deflate stream", rsv=4),
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]


# Living it


async def live(life: Life, port: int) -> None:
    """Do to the server on a port what a life tells; whatever the server does is no error here."""
    with contextlib.suppress(
        OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
    ):
        async with asyncio.timeout(3 * PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await _live(life, reader, writer)
            finally:
                _leave(life, writer)


async def _live(life: Life, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for index, piece in enumerate(life.pieces):
        writer.write(piece)
        if life.reads or not index:
            await writer.drain()
        if not index and life.greets:
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(life.pause)
    if life.leaving is Leaving.HALF and writer.can_write_eof():
        writer.write_eof()
    if life.reads:
        async with asyncio.timeout(life.pause or 0.05):
            while await reader.read(2**16):
                pass


def _leave(life: Life, writer: asyncio.StreamWriter) -> None:
    if life.leaving is Leaving.RESET:
        connection = writer.get_extra_info("socket")
        # Closing with nothing to wait for tells the other side that the connection is void.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
