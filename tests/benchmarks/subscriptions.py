"""Pages with ten subscriptions on one socket, beside pages with one: time, memory, deliveries."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from websockets.sync.client import ClientConnection, connect

from tests.benchmarks import cases, machine, servers
from tests.benchmarks.cases import Bench, Results
from tests.benchmarks.contenders import Contender

#: Subscriptions of a page that has many.
MANY = 10

#: Messages whose cost is measured, one after the other.
MESSAGES = 30


def run(bench: Bench, contenders: list[Contender]) -> Results:
    """Measure this package on each server in turn, several rounds."""

    def measure(contender: Contender) -> dict[str, Any]:
        result = {
            "one": _measure(bench, contender, 0),
            "ten": _measure(bench, contender, MANY - 1),
        }
        one, ten = result["one"], result["ten"]
        print(
            f"  subscriptions {bench.sizes.pages:5}  {contender.label:32}"
            f"one: {one['seconds'] * 1e3:.2f} ms  {one['bytes'] / 1024:.1f} KiB"
            f"  {one['delivery'] * 1e6:.1f} µs/delivery"
            f"  ten: {ten['seconds'] * 1e3:.2f} ms  {ten['bytes'] / 1024:.1f} KiB"
            f"  {ten['delivery'] * 1e6:.1f} µs/delivery",
            flush=True,
        )
        return result

    return cases.rounds(bench, contenders, measure)


def _measure(bench: Bench, contender: Contender, further: int) -> dict[str, Any]:
    """Return what a page costs that has so many further subscriptions."""
    port = machine.free_port()
    environment = bench.environment(contender.layer, port)
    command, log = contender.command(bench.folder, port), bench.folder / f"{contender.key}.log"
    bench.redis.client().flushdb()
    with servers.running(command, port, environment, log) as server, ExitStack() as stack:
        # A first few make the server import and cache what it needs for any.
        for _ in range(10):
            _open(port, further).close()
        resident, took, pages = machine.resident_bytes(server.pid), [], []
        for _ in range(bench.sizes.pages):
            began = time.perf_counter()
            pages.append(_open(port, further))
            took.append(time.perf_counter() - began)
            stack.callback(pages[-1].close_socket)
        time.sleep(bench.sizes.settle)
        grown = machine.resident_bytes(server.pid) - resident
        feed = stack.enter_context(_feeding(contender, environment))
        _publish(feed, pages, 1)
        before = machine.cpu_seconds(server.pid)
        _publish(feed, pages, MESSAGES)
        cpu = machine.cpu_seconds(server.pid) - before
        return {
            "seconds": statistics.median(took),
            "bytes": grown / len(pages),
            "delivery": cpu / (MESSAGES * len(pages)),
        }


def _open(port: int, further: int) -> ClientConnection:
    """Open a page's socket; what is published is heard by its last subscription."""
    facilities = [*(f"other{number}" for number in range(further)), "bench"]
    page = connect(
        f"ws://127.0.0.1:{port}/ws/{facilities[0]}?subscribe-broadcast",
        origin=f"http://127.0.0.1:{port}",  # type: ignore[arg-type] # its own kind of text
        subprotocols=["ws4redis.v1"],  # type: ignore[list-item] # the same
        compression=None,
        max_queue=None,
        ping_interval=None,
    )
    frames = [{"type": "hello"}] + [
        {
            "type": "subscribe",
            "id": number,
            "facility": facility,
            "flags": ["subscribe-broadcast"],
        }
        for number, facility in enumerate(facilities[1:], 1)
    ]
    page.send(json.dumps(frames))
    answers = [json.loads(page.recv(30))["type"] for _ in facilities]
    assert answers == ["welcome", *["subscribed"] * further], answers
    return page


@contextmanager
def _feeding(contender: Contender, environment: dict[str, str]) -> Iterator[IO[str]]:
    """Run the publishing process until the end of the block; yield what takes its orders."""
    process = subprocess.Popen(
        [contender.python(), "-m", "tests.benchmarks.feed", contender.feed, "128"],
        cwd=servers.ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    with process.stdin:
        yield process.stdin
    process.wait()


def _publish(feed: IO[str], pages: list[ClientConnection], messages: int) -> None:
    """Publish, each message once the one before has arrived on all pages."""
    for number in range(messages):
        feed.write(f"{number} -\n")
        feed.flush()
        for page in pages:
            assert json.loads(page.recv(30))["type"] == "message"
