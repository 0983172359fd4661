"""Real servers for the tests: daphne and uvicorn as processes on loopback ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from typing import Any, Self

from tests import forks

ROOT = forks.ROOT

#: Seconds for a server to start or stop.
PATIENCE = 30

#: Seconds for an answer to a server's ping, which clients that do not read never give. The default
#: of half a minute ends them in the middle of a test if the machine is busy.
_PONG = "600"

_DAPHNE = ["daphne", "-b", "127.0.0.1", "-p", "{port}", "--ping-timeout", _PONG, "{application}"]
_UVICORN = ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--timeout-graceful-shutdown",
            "{patience}", "{application}", "--ws-ping-timeout", _PONG, "--ws"]  # fmt: skip

COMMANDS = {
    "daphne": _DAPHNE,
    "uvicorn": [*_UVICORN, "websockets-sansio"],
    "uvicorn-wsproto": [*_UVICORN, "wsproto"],
    "uvicorn-websockets": [*_UVICORN, "websockets"],
}

_LISTENING = re.compile(r"(?:Listening on TCP address |running on https?://)127\.0\.0\.1:(\d+)")


class AsgiServer:
    """An ASGI server in a process of its own; started by ``with``, killed at the end of it."""

    def __init__(
        self,
        kind: str = "daphne",
        *,
        application: str = "tests.site.asgi:application",
        settings: dict[str, Any] | None = None,
        port: int = 0,
        patience: int = 5,
        **environment: str,
    ) -> None:
        self.kind = kind
        self.patience = patience
        self.application = application
        self.port = port
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "tests.site.settings",
            "WS4REDIS_TEST_SETTINGS": json.dumps(settings or {}),
            **environment,
        }
        self.lines: list[str] = []
        self.process: forks.Fork
        self._listening = threading.Event()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the process and wait until it listens; a restarted server keeps its port."""
        self._listening.clear()
        command = [
            part.format(port=self.port, application=self.application, patience=self.patience)
            for part in COMMANDS[self.kind]
        ]
        output, into = os.pipe()
        self.process = forks.ORIGIN.fork(command, dict(os.environ | self.environment), into)
        os.close(into)
        self._reader = threading.Thread(target=self._read, args=[output], daemon=True)
        self._reader.start()
        assert self._listening.wait(PATIENCE), self.log
        assert self.process.poll() is None, self.log
        return self

    def _read(self, output: int) -> None:
        with os.fdopen(output) as lines:
            for line in lines:
                self.lines.append(line)
                if found := _LISTENING.search(line):
                    self.port = int(found[1])
                    self._listening.set()
        self._listening.set()  # it has ended; whoever waits finds out why

    @property
    def log(self) -> str:
        """What the server has printed."""
        return "".join(self.lines)

    def says(self, text: str) -> bool:
        """Tell whether the server prints a text, which may still be on its way here."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE)
            raise
        self._reader.join(PATIENCE)
        return code

    def url(self, path: str = "/") -> str:
        """Return the HTTP address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def socket_url(self, path: str) -> str:
        """Return the WebSocket address of a path."""
        return f"ws://127.0.0.1:{self.port}{path}"
