"""Clients that do not read, servers that do not answer, and how much memory was used for them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path


class SilentClient:
    """A client that opens a socket and reads nothing until told to."""

    def __init__(self, port: int, path: str, subprotocol: str | None = None) -> None:
        self._socket = socket.socket()
        # Small, so that the server's side fills up soon.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            (
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\n"
                + (f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else "")
                + "\r\n"
            ).encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._socket.recv(1)
        assert b" 101 " in answer, answer

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Return each frame's opcode and payload until the connection is closed."""
        with self._socket.makefile("rb") as stream, contextlib.suppress(ConnectionResetError):
            while head := stream.read(2):
                opcode, size = head[0] & 15, head[1] & 127
                if size == 126:
                    (size,) = struct.unpack("!H", stream.read(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", stream.read(8))
                yield opcode, stream.read(size)

    def wait(self) -> None:
        """Wait until there is something to read, and do not read it."""
        self._socket.recv(1, socket.MSG_PEEK)

    def say(self, *texts: str) -> None:
        """Send short texts once, all in one go."""
        self._socket.sendall(b"".join(short_frame(1, text.encode()) for text in texts))

    def go(self, how: str, *texts: str, code: int = 1000) -> None:
        """Send short texts, and go with a close frame, without one (fin), or abruptly (rst).

        :param code: of the close frame.
        """
        frames = [short_frame(1, text.encode()) for text in texts]
        if how == "close":
            frames.append(short_frame(8, struct.pack("!H", code)))
        self._socket.sendall(b"".join(frames))
        if how == "close":
            for _ in self.frames():
                pass
        elif how == "rst":
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    def send(self, opcode: int, payload: bytes, limit: int) -> int:
        """Send a frame again and again, until nothing more is taken; return how many bytes were.

        :param limit: bytes that are enough.
        """
        size = len(payload)
        head = bytes([128 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        frame = bytes([128 | opcode]) + head + b"\0\0\0\0" + payload  # masked by nothing
        chunk = frame * max(1, 50_000 // len(frame))
        sent = 0
        self._socket.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while sent < limit:
                self._socket.sendall(chunk)
                sent += len(chunk)
        return sent

    def take(self, count: int) -> None:
        """Read so many frames, which are all that have been sent."""
        for _ in itertools.islice(self.frames(), count):
            pass

    def read(self) -> bytes:
        """Return the first message; nothing if the connection is closed instead."""
        return next((payload for opcode, payload in self.frames() if opcode in (1, 2)), b"")

    def read_to_the_end(self) -> tuple[int, int | None]:
        """Return the number of messages that have come, and the close code."""
        count = 0
        for opcode, payload in self.frames():
            if opcode == 8:
                self._socket.close()
                return count, struct.unpack("!H", payload[:2])[0]
            count += opcode in (0, 1, 2)
        return count, None

    def close(self) -> None:
        """Go away."""
        self._socket.close()


def short_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame of at most 125 bytes, masked by nothing."""
    return bytes([128 | opcode, 128 | len(payload)]) + b"\0\0\0\0" + payload


@contextlib.contextmanager
def frozen_server() -> Iterator[int]:
    """Yield a port on which connections are accepted, and never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def gone_server() -> Iterator[int]:
    """Yield a port that swallows whatever is sent to it, as the address of a host that is gone."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # from now on the system has no room for another connection
            stuffing = stack.enter_context(socket.socket())
            stuffing.setblocking(False)
            stuffing.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def forget_peak(pid: int) -> None:
    """Have the peak of a process's memory counted from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """Return the most memory that a process has had in use, in bytes."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) * 1024
