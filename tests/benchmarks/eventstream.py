"""django-eventstream and this package under the same load.

Run ``python -m tests.benchmarks.eventstream``; it takes four minutes. This is no part of the other
benchmarks, as Server-Sent Events are read in another way than sockets.
Everything else is the same: one server process, 500 clients of one channel, messages of 128 bytes
that are not stored, four of them on their way at once.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from typing import Any

import uvloop

from tests.benchmarks import cases, machine, servers
from tests.benchmarks.contenders import DELIVERING
from tests.benchmarks.load import Load, Tally

PACKAGES = ["django-eventstream==5.3.4", "Django~=5.2.0", "daphne", "redis", "uvicorn[standard]"]
FOLDER = servers.CACHE / "eventstream"
CLIENTS = 500
APP = "tests.benchmarks.apps.eventstream"


class Reader(asyncio.Protocol):
    """One client."""

    def __init__(self, tally: Tally, closed: list[int], port: int) -> None:
        self._tally = tally
        self._closed = closed
        self._port = port
        self._rest = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Ask for the stream."""
        self.transport = transport
        transport.write(
            b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n"
            % self._port
        )

    def data_received(self, data: bytes) -> None:
        """Count the lines that hold messages; sizes of chunks stand on lines of their own."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > 40 and line.startswith(b"data: "):
                self._tally.arrived(line[6:])
            elif line == b"event: stream-open":
                self.opened.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Note a client that has lost its stream."""
        self._closed.append(1)
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("there is no stream"))


class EventLoad(Load):
    """A run with streams in place of sockets."""

    async def connect(self, sockets: list[list[Any]]) -> list[float]:
        """Open the streams, some at a time."""
        gate = asyncio.Semaphore(self.plan["connecting_at_once"])
        loop, port = asyncio.get_running_loop(), self.plan["port"]

        async def open_one() -> float:
            async with gate:
                began = loop.time()
                transport, reader = await loop.create_connection(
                    lambda: Reader(self.tally, self.closed, port), "127.0.0.1", port
                )
                await reader.opened
                self.transports.append(transport)  # type: ignore[arg-type] # closed below
                return loop.time() - began

        return await asyncio.gather(*(open_one() for _ in sockets))

    async def disconnect(self) -> None:
        """Close all streams."""
        for transport in self.transports:
            transport.close()  # type: ignore[attr-defined] # they are asyncio's
        self.transports.clear()
        await asyncio.sleep(0.5)
        self.closed.clear()


def install() -> str:
    """Make the environment unless an earlier run has made it; return its interpreter."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / "complete").exists():
        servers.CACHE.mkdir(exist_ok=True)
        (servers.CACHE / ".gitignore").write_text("*\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (FOLDER / "complete").touch()
    return str(python)


def run(bench: cases.Bench, python: str, server: str) -> dict[str, Any]:
    """Measure django-eventstream once."""
    sizes, port = bench.sizes, machine.free_port()
    start = {"daphne": servers.daphne, "uvicorn": servers.uvicorn}[server]
    command = [python, *start(f"{APP}:application", port)[1:]]
    environment = bench.environment("none", port) | {"DJANGO_SETTINGS_MODULE": APP}
    plan = {
        "port": port,
        "redis_url": bench.redis.url,
        "sockets": [[]] * CLIENTS,
        "first_sockets": 10,
        "audience": "broadcast",
        "feed": [python, "-m", "tests.benchmarks.feed", "eventstream", str(sizes.payload_bytes)],
        "environment": environment,
        "seconds": sizes.seconds,
        "window": 4,
        "paced_rate": 0,
        "warm_up": 5,
        "single_messages": sizes.single_messages,
        "single_pause": sizes.single_pause,
        "connecting_at_once": sizes.connecting_at_once,
        "settle": sizes.settle,
    }
    bench.redis.client().flushall()
    with servers.running(command, port, environment, bench.folder / "eventstream.log") as process:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.eventstream", "load"],
            input=json.dumps(plan | {"server_pid": process.pid}),
            stdout=subprocess.PIPE,
            text=True,
            cwd=servers.ROOT,
            check=True,
            timeout=300,
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure in three alternating rounds and print the medians."""
    machine.raise_file_limit()
    python = install()
    ours = {each.server: each for each in DELIVERING if each.key.startswith("package-")}
    results: dict[str, list[dict[str, Any]]] = {}
    with servers.work_folder() as folder, servers.redis_server(folder) as redis:
        bench = cases.Bench(folder, redis, cases.FULL, [])
        for _ in range(bench.sizes.rounds):
            for server, contender in ours.items():
                mine = cases.run_once(bench, contender, CLIENTS, "broadcast")
                results.setdefault(contender.label, []).append(mine)
                other = run(bench, python, server)
                results.setdefault(f"django-eventstream, {server}", []).append(other)
    print(f"{CLIENTS} clients; {redis.version}; {machine.processor_name()}")
    print("| | CPU µs per delivery | deliveries/s | p50 ms | KiB per client | lost |")
    print("|---|---:|---:|---:|---:|---:|")
    for label, runs in results.items():
        figures = [
            f"{statistics.median(each['saturated']['server_cpu'] for each in runs) * 1e6:.1f}",
            f"{statistics.median(each['saturated']['rate'] for each in runs):,.0f}",
            f"{statistics.median(each['single']['p50'] for each in runs) * 1e3:.1f}",
            f"{statistics.median(each['bytes_per_socket'] for each in runs) / 1024:.1f}",
            f"{sum(each['saturated']['lost'] + each['single']['lost'] for each in runs)}",
        ]
        print(f"| {label} | {' | '.join(figures)} |")


if __name__ == "__main__":
    if sys.argv[1:] == ["load"]:
        machine.raise_file_limit()
        json.dump(uvloop.run(EventLoad(json.load(sys.stdin)).run()), sys.stdout)
    else:
        main()
