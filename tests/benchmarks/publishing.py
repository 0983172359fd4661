"""The publishing cases: one process per publisher, asked in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.benchmarks import servers
from tests.benchmarks.cases import Bench, BrokenError


@dataclass(frozen=True)
class Publisher:
    """One way of publishing from plain synchronous code."""

    key: str
    label: str
    kind: str
    layer: str
    persists: bool = True
    quick: bool = True


PUBLISHERS = [
    Publisher("package", "this package", "package", "own"),
    Publisher("unkept", "this package, keep=False", "unkept", "own", persists=False),
    Publisher("bare", "the same commands, bare redis-py pipeline", "bare", "own"),
    Publisher("plain", "SET and PUBLISH, bare redis-py pipeline", "plain", "own"),
    Publisher("legacy", "legacy 0.6.0", "legacy", "none", quick=False),
    Publisher(
        "pubsub", "async_to_sync(group_send), pubsub layer", "channels", "pubsub", persists=False
    ),
    Publisher(
        "core",
        "async_to_sync(group_send), core layer",
        "channels",
        "core",
        persists=False,
        quick=False,
    ),
]

#: Measured calls by recipients per call, about a second's worth of each.
CALLS = {1: 1000, 10: 200, 100: 30, 1000: 12}
#: An event loop and a connection per message take so long that fewer have to do.
SLOW_CALLS = {1: 200, 10: 20, 100: 3, 1000: 1}

#: By recipients and whether the message is persisted: the results of each publisher.
Published = dict[tuple[int, bool], dict[str, list[dict[str, Any]]]]


class Process:
    """A running publisher."""

    def __init__(self, publisher: Publisher, process: subprocess.Popen[str]) -> None:
        self.publisher = publisher
        self._process = process

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have some calls measured."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise BrokenError(f"publishing with {self.publisher.label} has failed")
        result: dict[str, Any] = json.loads(answer)
        return result


@contextmanager
def started(bench: Bench, publisher: Publisher) -> Iterator[Process]:
    """Run a publisher until the end of the block."""
    legacy = publisher.kind == "legacy"
    python = str(servers.LEGACY / "bin" / "python") if legacy else sys.executable
    process = subprocess.Popen(
        [python, "-m", "tests.benchmarks.publish", publisher.kind],
        cwd=servers.ROOT,
        env=os.environ | bench.environment(publisher.layer),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Process(publisher, process)
    finally:
        process.kill()
        process.communicate()


def run(bench: Bench, *, quick: bool) -> Published:
    """Measure all publishers in turn, several rounds."""
    published: Published = {}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(bench, publisher))
            for publisher in PUBLISHERS
            if publisher.key not in bench.missing and (publisher.quick or not quick)
        ]
        for recipients in bench.sizes.recipients:
            for persist in (True, False):
                bench.redis.client().flushall()
                results = _measure(bench, processes, recipients, persist=persist)
                published[recipients, persist] = results
    return published


def _measure(
    bench: Bench, processes: list[Process], recipients: int, *, persist: bool
) -> dict[str, list[dict[str, Any]]]:
    able = [process for process in processes if process.publisher.persists or not persist]
    results: dict[str, list[dict[str, Any]]] = {process.publisher.key: [] for process in able}
    for number in range(bench.sizes.rounds):
        start = number % len(able)
        for process in able[start:] + able[:start]:
            slow = process.publisher.kind == "channels"
            request = {
                "recipients": recipients,
                "persist": persist,
                "calls": (SLOW_CALLS if slow else CALLS)[recipients],
                "payload_bytes": bench.sizes.payload_bytes,
            }
            result = process.ask(request)
            results[process.publisher.key].append(result)
            stored = "stored" if persist else "not stored"
            print(
                f"  publish {recipients:5} {stored:10}  {process.publisher.label:42}"
                f"{result['median'] * 1e3:9.3f} ms {result['cpu'] * 1e3:9.3f} ms of processor",
                flush=True,
            )
    return results
