"""Processes that are forked off one that has imported what they need.

Most of a server's start goes into importing Twisted, Django and the like, and the tests start
hundreds of servers. So one process for each worker of the tests imports them once, and forks for
each server. A fork then runs its module as ``python -m`` does. Nothing of this package is imported
before the fork, and nothing that reads Django's settings or chooses Twisted's reactor.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PRELOADED = [
    "autobahn.twisted.websocket",
    "channels.db",
    "channels.generic.websocket",
    "channels_redis.core",
    "channels_redis.pubsub",
    "django.contrib.staticfiles.handlers",
    "django.core.asgi",
    "django.core.cache.backends.locmem",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "django.db.models",
    "django.forms",
    "django.template.context_processors",
    "django.views.generic",
    "msgpack",
    "redis.asyncio",
    "redis.sentinel",
    "twisted.internet.asyncioreactor",
    "twisted.web.http",
    "uvicorn.main",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "uvloop",
]


class Fork:
    """A process that was forked off, with as much of ``Popen`` as the tests use."""

    def __init__(self, origin: Origin, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._origin = origin

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        if self.returncode is None:
            self.returncode = self._origin.exit_code(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end of the process and return its exit code.

        :param timeout: seconds.
        :raises subprocess.TimeoutExpired: if it takes longer.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Origin:
    """The process that forks; it is started when it is first asked, and ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: Connection | None = None

    def fork(self, command: list[str], environment: dict[str, str], output: int) -> Fork:
        """Start a process.

        :param command: a module and its arguments, as after ``python -m``.
        :param environment: all of its environment.
        :param output: the file number to which it writes; it stays open here.
        """
        with self._lock:
            if self._line is None:
                self._line = self._start()
            self._line.send((command, environment))
            send_handle(self._line, output, None)
            return Fork(self, self._line.recv())

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a process that was forked, or None while it runs."""
        with self._lock:
            assert self._line is not None
            self._line.send(pid)
            code: int | None = self._line.recv()
            return code

    def _start(self) -> Connection:
        near, far = Pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(far.fileno())],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'testproject'}",
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            pass_fds=[far.fileno()],
        )
        far.close()

        def end() -> None:
            near.close()
            process.wait()

        atexit.register(end)
        return near


ORIGIN = Origin()


def attend(line: Connection) -> tuple[list[str], dict[str, str]]:
    """Fork as often as the other end asks; returns in each fork, with what it is to run."""
    while True:
        try:
            order = line.recv()
        except EOFError:
            sys.exit()
        if isinstance(order, int):
            pid, status = os.waitpid(order, os.WNOHANG)
            line.send(os.waitstatus_to_exitcode(status) if pid else None)
            continue
        output = recv_handle(line)
        pid = os.fork()
        if pid == 0:
            line.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            return order
        os.close(output)
        line.send(pid)


def main() -> None:
    """Import, and fork until the other end of the line is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Ctrl-C comes to all processes of a terminal
    for name in PRELOADED:
        import_module(name)
    command, environment = attend(Connection(int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
