"""The case of several processes: what all of them deliver, and what one more costs a publish."""

from __future__ import annotations

import dataclasses
import os
import socket
from contextlib import ExitStack
from typing import Any

from tests.benchmarks import cases, machine, publishing, servers
from tests.benchmarks.cases import Bench, Results
from tests.benchmarks.contenders import DELIVERING, Contender
from tests.fuzz.found import opening

#: How many processes; no more than there are cores.
COUNTS = (1, 2, 4)

#: Sockets for each process while publishing is measured: each process has some in any case.
LISTENERS = 8

BROADCAST = publishing.Publisher("broadcast", "this package, broadcast", "broadcast", "own")


def contenders() -> list[Contender]:
    """Return this package on each server, in every number of processes that the cores allow."""
    return [
        dataclasses.replace(
            each,
            key=f"{each.key}-{count}",
            label=f"{each.label}, {count} {'process' if count == 1 else 'processes'}",
            processes=count,
        )
        for each in DELIVERING
        if each.feed == "package"
        for count in COUNTS
        if count <= len(os.sched_getaffinity(0))
    ]


def run(bench: Bench, sockets: int) -> Results:
    """Measure each number of processes in turn, several rounds.

    :param sockets: on one facility, in all processes together.
    """

    def measure(contender: Contender) -> dict[str, Any]:
        result = cases.run_once(bench, contender, sockets, "broadcast")
        result["publish"] = _publish(bench, contender)
        saturated, publish = result["saturated"], result["publish"]
        print(
            f"  processes {sockets:5}  {contender.label:32}"
            f"{saturated['server_cpu'] * 1e6:8.1f} µs/delivery {saturated['rate']:9.0f}/s"
            f"  (servers {saturated['server_share']:.0%}, load {saturated['load_share']:.0%})"
            f"  publish {publish['median'] * 1e6:6.0f} µs"
            f"  Redis {publish['redis_cpu'] * 1e6:4.0f} µs",
            flush=True,
        )
        return result

    return cases.rounds(bench, contenders(), measure)


def _publish(bench: Bench, contender: Contender) -> dict[str, Any]:
    """Return what a publish costs while all processes listen."""
    port = machine.free_port()
    environment = bench.environment(contender.layer, port)
    command, log = contender.command(bench.folder, port), bench.folder / f"{contender.key}.log"
    bench.redis.client().flushall()
    with servers.running(command, port, environment, log), ExitStack() as stack:
        for _ in range(LISTENERS * contender.processes):
            stack.enter_context(_listener(port))
        publisher = stack.enter_context(publishing.started(bench, BROADCAST))
        return publisher.ask(
            {
                "recipients": 1,
                "persist": True,
                "calls": publishing.CALLS[1],
                "payload_bytes": bench.sizes.payload_bytes,
            }
        )


def _listener(port: int) -> socket.socket:
    """Open a socket that reads nothing: the system has room for all that is published here."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(opening(path="/ws/bench?subscribe-broadcast"))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    assert b" 101 " in answer, answer
    return connection
