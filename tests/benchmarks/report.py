"""Tables of an outcome, as Markdown, which is also what is printed."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tests.benchmarks import floor, machine, processes, servers
from tests.benchmarks.cases import WAITING, Results, Sizes
from tests.benchmarks.contenders import DELIVERING, IDLE
from tests.benchmarks.outcome import Outcome, cost_at, lost, median, ratio
from tests.benchmarks.publishing import PUBLISHERS
from tests.benchmarks.targets import TARGETS

LABELS = {contender.key: contender.label for contender in [*DELIVERING, *IDLE]}
_PACKAGES = (
    "Django",
    "channels",
    "channels-redis",
    "daphne",
    "Twisted",
    "uvicorn",
    "uvloop",
    "websockets",
    "redis",
    "hiredis",
    "msgpack",
    "picows",
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns also line up as plain text."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(cells[0]), "| " + " | ".join(rule) + " |", *map(line, cells[1:])])


def _figure(value: float | None, factor: float = 1.0, digits: int = 1) -> str:
    return "–" if value is None else f"{value * factor:,.{digits}f}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ×"


def versions(redis_version: str) -> list[str]:
    """Return the names and versions of everything that took part."""
    found = [f"Python {platform.python_version()}", redis_version]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if (servers.LEGACY / "complete").exists():
        done = subprocess.run(
            [str(servers.LEGACY / "bin" / "pip"), "freeze"],
            capture_output=True,
            text=True,
            check=False,
        )
        wanted = ("django==", "redis==", "gevent==", "uwsgi==")
        names = [line for line in done.stdout.splitlines() if line.lower().startswith(wanted)]
        found.append("legacy: django-websocket-redis 0.6.0, " + ", ".join(names))
    return found


def render(outcome: Outcome, sizes: Sizes, redis_version: str, command: str) -> str:
    """Return the whole report."""
    today = datetime.datetime.now(datetime.UTC).date()
    parts = [
        "# Benchmark",
        (
            f"{today}, `{command}`. Medians of {sizes.rounds} alternated rounds; one server "
            f"process each; payload {sizes.payload_bytes} bytes, text frames; "
            f"{machine.processor_name()}."
        ),
        "; ".join(versions(redis_version)) + ".",
        (
            "CPU is user and system time of the server's process tree. Rates are those of a "
            "server that is kept busy; p50 and p99 those of one message at a time, from before "
            "publishing to arrival."
        ),
        (
            f"A bare write(2) of a frame to each of {floor.SOCKETS} sockets takes "
            f"{_figure(outcome.write, 1e6)} µs here: no server that writes to each socket can "
            "take less for a delivery."
        ),
        "## Must hold",
        _targets(outcome),
    ]
    if sizes.rounds == 1:
        parts.append("One round is too little to judge by: its figures are noise to a good part.")
    for count, results in outcome.fan_out.items():
        parts += [f"## Fan-out, {count:,} sockets on one facility", _deliveries(results, outcome)]
    if outcome.processes:
        title = f"## Several processes, {sizes.processes:,} sockets of one facility shared out"
        parts += [title, _processes(outcome.processes)]
        parts.append(
            "Publishing is measured apart, with few sockets on each process: stored, to everybody. "
            "Load generator, publisher and Redis have no cores of their own."
        )
    for count, results in outcome.users.items():
        title = f"## {count:,} sockets of {count:,} users, each message to a random user"
        parts += [title, _deliveries(results, outcome)]
        parts.append(
            f"CPU at {sizes.users_rate:,} messages a second for everyone; the rate with "
            f"{sizes.users_window} messages on their way, which the publisher may limit."
        )
    for count, results in outcome.crowd.items():
        title = f"## What others wait for while {count:,} sockets on one facility are written to"
        parts += [title, _crowd(results)]
    parts += ["## Connecting, and idle sockets", _sockets(outcome)]
    if outcome.subscriptions:
        title = "## Pages with one subscription, and with ten on one socket"
        parts += [title, _subscriptions(outcome.subscriptions)]
    parts += ["## Redis work per publish", _redis(outcome)]
    parts += ["## Publishing from plain synchronous code", _publishing(outcome)]
    if outcome.missing:
        rows = [(LABELS.get(key, key), reason) for key, reason in outcome.missing.items()]
        parts += ["## Not measured", table(("contender", "reason"), rows)]
    return "\n\n".join(parts) + "\n"


def _targets(outcome: Outcome) -> str:
    marks = {True: "✓", False: "✗", None: "–"}
    rows = []
    for target in TARGETS:
        found = target.find(outcome)
        rows.append(
            (target.figure, target.text, _figure(found, digits=2), marks[target.holds(outcome)])
        )
    return table(("figure", "target", "measured", "holds"), rows)


def _deliveries(results: Results, outcome: Outcome) -> str:
    rows = []
    for contender in DELIVERING:
        rounds = results.get(contender.key)
        if not rounds:
            limit = contender.most_sockets
            if contender.key not in outcome.missing and limit < 1_000_000:
                lack = f"(holds {limit} sockets a process at most)"
                rows.append((f"{contender.label} {lack}", *["–"] * 8))
            continue
        load = cost_at(results)
        cpu = median(rounds, load, "server_cpu")
        ceiling = median(results.get(f"ceiling-{contender.server}"), load, "server_cpu")
        rows.append(
            (
                contender.label,
                _figure(cpu, 1e6),
                _times(ratio(cpu, ceiling)),
                _figure(median(rounds, "saturated", "rate"), digits=0),
                _figure(median(rounds, "saturated", "server_share"), 100, 0) + " %",
                _figure(median(rounds, "saturated", "load_share"), 100, 0) + " %",
                _figure(median(rounds, "single", "p50"), 1e3),
                _figure(median(rounds, "single", "p99"), 1e3),
                str(lost(rounds)),
            )
        )
    return table(
        (
            "contender",
            "CPU µs per delivery",
            "÷ ceiling",
            "deliveries/s",
            "server busy",
            "load generator busy",
            "p50 ms",
            "p99 ms",
            "lost",
        ),
        rows,
    )


def _processes(results: Results) -> str:
    rows = []
    for contender in processes.contenders():
        rounds = results.get(contender.key)
        if not rounds:
            continue
        cpu = median(rounds, "saturated", "server_cpu")
        single = results.get(contender.key.rpartition("-")[0] + "-1")
        rows.append(
            (
                contender.label,
                _figure(cpu, 1e6),
                _times(ratio(cpu, median(single, "saturated", "server_cpu"))),
                _figure(median(rounds, "saturated", "rate"), digits=0),
                _figure(median(rounds, "saturated", "server_share"), 100, 0) + " %",
                _figure(median(rounds, "saturated", "load_share"), 100, 0) + " %",
                _figure(median(rounds, "publish", "redis_cpu"), 1e6, 0),
                _figure(median(rounds, "publish", "median"), 1e6, 0),
                str(lost(rounds)),
            )
        )
    return table(
        (
            "contender",
            "CPU µs per delivery",
            "÷ one process",
            "deliveries/s",
            "servers busy",
            "load generator busy",
            "Redis CPU µs per publish",
            "publisher's µs per publish",
            "lost",
        ),
        rows,
    )


def _crowd(results: Results) -> str:
    rows = []
    for key, rounds in results.items():
        for phase in ("quiet", "busy") if rounds else ():
            rate = median(rounds, phase, "rate") if phase == "busy" else None
            waits = (
                _figure(median(rounds, phase, kind, share), 1e3)
                for kind in WAITING
                for share in ("p50", "p99")
            )
            rows.append((f"{LABELS[key]}, {phase}", _figure(rate, digits=0), *waits))
    head = (f"{kind}, {share} ms" for kind in WAITING for share in ("p50", "p99"))
    return table(("contender", "deliveries/s", *head), rows)


def _sockets(outcome: Outcome) -> str:
    largest = [(max(each), each) for each in (outcome.fan_out, outcome.idle) if each]
    measured = [(f"{count:,}", results[count]) for count, results in largest]
    measured += [(f"{count:,} users", results) for count, results in outcome.users.items()]
    measured += [(f"users, sessions in {name}", each) for name, each in outcome.connects.items()]
    rows = [
        _socket_row(f"{LABELS[key]}, {what}", rounds)
        for what, results in measured
        for key, rounds in results.items()
        if rounds
    ]
    return table(
        (
            "contender, sockets",
            "connects/s",
            "CPU µs per connect",
            "p50 ms",
            "p99 ms",
            "Redis commands per connect, in scripts too",
            "new Redis connections",
            "KiB per socket",
            "CPU µs per idle socket and second",
        ),
        rows,
    )


def _socket_row(label: str, rounds: list[dict[str, Any]]) -> tuple[str, ...]:
    return (
        label,
        _figure(median(rounds, "connect", "rate"), digits=0),
        _figure(median(rounds, "connect", "server_cpu"), 1e6, 0),
        _figure(median(rounds, "connect", "p50"), 1e3),
        _figure(median(rounds, "connect", "p99"), 1e3),
        _figure(median(rounds, "connect", "redis_commands"), digits=2),
        _figure(median(rounds, "connect", "redis_connections"), digits=0),
        _figure(median(rounds, "bytes_per_socket"), 1 / 1024),
        _figure(median(rounds, "rest") if "rest" in rounds[0] else None, 1e6),
    )


def _subscriptions(results: Results) -> str:
    rows = [
        (
            f"{LABELS[key]}, {how_many}",
            _figure(median(rounds, how_many, "seconds"), 1e3, 2),
            _figure(median(rounds, how_many, "bytes"), 1 / 1024),
            _figure(median(rounds, how_many, "delivery"), 1e6),
        )
        for key, rounds in results.items()
        for how_many in ("one", "ten")
        if rounds
    ]
    head = ("contender, subscriptions", "ms to open", "KiB per page", "CPU µs per delivery")
    return table(head, rows)


def _redis(outcome: Outcome) -> str:
    rows = []
    for contender in DELIVERING:
        for count, results in outcome.fan_out.items():
            rounds = results.get(contender.key)
            if rounds and contender.feed != "nchan":
                rows.append(
                    (
                        f"{contender.label}, {count:,}",
                        _figure(median(rounds, "single", "redis_commands"), digits=1),
                        _figure(median(rounds, "single", "redis_seconds"), 1e6, 0),
                        _figure(median(rounds, "single", "redis_bytes"), digits=0),
                    )
                )
    return table(
        ("contender, sockets on one facility", "commands", "µs in commands", "bytes in and out"),
        rows,
    )


def _publishing(outcome: Outcome) -> str:
    rows = []
    labels = {publisher.key: publisher.label for publisher in PUBLISHERS}
    for (recipients, persist), results in outcome.published.items():
        ours = median(results.get("package"), "median")
        for key, rounds in results.items():
            wall = median(rounds, "median")
            rows.append(
                (
                    f"{recipients:,} {'stored' if persist else 'not stored'}, {labels[key]}",
                    _figure(wall, 1e3, 3),
                    _figure(median(rounds, "p99"), 1e3, 3),
                    _times(ratio(ours, wall)),
                    _figure(median(rounds, "cpu"), 1e3, 3),
                    _figure(median(rounds, "redis_cpu"), 1e3, 3),
                    _figure(median(rounds, "redis_commands"), digits=0),
                    _figure(median(rounds, "new_connections"), digits=1),
                )
            )
    return table(
        (
            "recipients per call, publisher",
            "p50 ms",
            "p99 ms",
            "this package ÷ it",
            "CPU ms",
            "Redis CPU ms",
            "Redis commands",
            "new connections",
        ),
        rows,
    )
