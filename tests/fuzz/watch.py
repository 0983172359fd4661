"""What has to hold while strangers are at a server: it lives, serves others, and stays small."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Self

import websockets

from tests.clients import Socket, Visitor
from tests.servers import AsgiServer

#: A logging configuration whose lines begin with their level, as uvicorn's own do.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"level": {"format": "%(levelname)s: %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "level"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"daphne.server": {"level": "INFO"}},
}

_RECORD = re.compile(r"^(?=(?:DEBUG|INFO|WARNING|ERROR|CRITICAL): )", re.MULTILINE)

#: What servers log as an error by themselves, for bytes that no honest client sends: a handshake or
#: a text in another encoding, a wrong frame before the socket is let in. It ends that connection.
_OF_A_SERVER = re.compile(r"/(?:daphne|uvicorn|websockets|wsproto|h11)/[\w/]+\.py\"")

#: What Django logs as an error for a page, which a handshake without an ``Upgrade`` asks for.
_OF_DJANGO = re.compile(r"ERROR: django\.security\.DisallowedHost: Invalid HTTP_HOST header")


def errors(log: str) -> list[str]:
    """Return the records of a log that tell of an error which is not expected."""
    found = [
        record
        for record in _RECORD.split(log)
        if record.startswith(("ERROR", "CRITICAL"))
        or re.search(r"Traceback|Exception ignored|never awaited|never retrieved", record)
    ]
    return [record for record in found if not _is_expected(record)]


def _is_expected(record: str) -> bool:
    if "channels_ws4redis" in record:
        return False
    return bool(_OF_A_SERVER.search(record) or _OF_DJANGO.search(record))


def memory(server: AsgiServer) -> int:
    """Return the bytes of memory that a server's process has in use."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = re.findall(r"VmRSS:\s*(\d+) kB", status)
    return int(line) * 1024


class Innocent:
    """Somebody who listens and somebody who speaks, on a facility that no stranger names.

    :param server: where both are connected.
    """

    def __init__(self, server: AsgiServer) -> None:
        self._server = server
        #: Seconds that the message took which took longest, from being sent to being received.
        self.longest_wait = 0.0
        self.messages = 0

    async def __aenter__(self) -> Self:
        visitor = Visitor(self._server)
        path = "/ws/innocent?{}-broadcast"
        self._sockets = [visitor.socket(path.format(verb)) for verb in ("subscribe", "publish")]
        self._listener, self._speaker = [await each.__aenter__() for each in self._sockets]
        self._task = asyncio.create_task(self._talk(self._listener, self._speaker))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        for each in self._sockets:
            await each.__aexit__(None, None, None)

    async def _talk(self, listener: Socket, speaker: Socket) -> None:
        while True:
            begun = time.monotonic()
            await speaker.send(str(self.messages))
            assert await listener.receive() == str(self.messages)
            self.longest_wait = max(self.longest_wait, time.monotonic() - begun)
            self.messages += 1
            await asyncio.sleep(0.02)

    @property
    def fate(self) -> str:
        """What has become of the two, "" while all is well."""
        if not self._task.done():
            return ""
        error = self._task.exception()
        if isinstance(error, websockets.ConnectionClosed):
            return f"an innocent socket was closed: {error}"
        return f"an innocent message did not arrive: {error!r}"
