"""Runs the benchmark: ``python -m tests.benchmarks [--quick]``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from tests.benchmarks import (
    cases,
    floor,
    machine,
    picture,
    processes,
    publishing,
    report,
    servers,
    subscriptions,
)
from tests.benchmarks.cases import FULL, QUICK, Bench, BrokenError
from tests.benchmarks.contenders import DELIVERING, IDLE, Contender
from tests.benchmarks.outcome import Outcome, lost

CASES = ("fan-out", "processes", "users", "connects", "crowd", "idle", "subscriptions", "publish")


def main() -> int:
    """Run what the command line asks for; a failure, but no slowness, makes the status non-zero."""
    arguments = _arguments()
    sizes = QUICK if arguments.quick else FULL
    if arguments.rounds:
        sizes = dataclasses.replace(sizes, rounds=arguments.rounds)
    limit = machine.raise_file_limit()
    if limit < 1.5 * max(sizes.crowd):
        print(f"warning: only {limit} files may be open; see ulimit -n", file=sys.stderr)
    began = time.monotonic()
    contenders = [
        contender
        for contender in DELIVERING
        if (contender.quick or not arguments.quick)
        and (not arguments.only or contender.key in arguments.only)
    ]
    try:
        with servers.work_folder() as folder, servers.redis_server(folder) as redis:
            bench = Bench(folder, redis, sizes, [])
            _prepare(bench, contenders)
            outcome = _run(bench, contenders, arguments.cases, quick=arguments.quick)
            text = report.render(outcome, sizes, redis.version, _command(arguments))
    except (BrokenError, servers.StartError) as error:
        print(f"broken: {error}", file=sys.stderr)
        return 1
    _write(arguments.output, text, outcome)
    print(f"\n{text}\n{time.monotonic() - began:.0f} s; written to {arguments.output}")
    return _lost(outcome)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, for its exit status")
    parser.add_argument("--rounds", type=int, help="how often each figure is measured")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    keys = [contender.key for contender in DELIVERING]
    parser.add_argument("--only", nargs="+", choices=keys, help="only these contenders")
    parser.add_argument("--output", type=Path, help="folder for the report, picture and figures")
    arguments = parser.parse_args()
    if arguments.output is None:
        arguments.output = servers.CACHE / ("quick" if arguments.quick else "full")
    return arguments


def _command(arguments: argparse.Namespace) -> str:
    return "python -m tests.benchmarks " + " ".join(sys.argv[1:]) if sys.argv[1:] else "make bench"


def _prepare(bench: Bench, contenders: list[Contender]) -> None:
    """Install what contenders need, and note which of them cannot be measured."""
    for contender in contenders:
        try:
            contender.prepare()
            contender.command(bench.folder, 1)
        except servers.UnavailableError as reason:
            bench.missing[contender.key] = str(reason)
            print(f"without {contender.label}: {reason}")
    for contender in DELIVERING:
        if contender not in contenders:
            bench.missing.setdefault(contender.key, "left out of this run")


def _run(bench: Bench, contenders: list[Contender], wanted: list[str], *, quick: bool) -> Outcome:
    _prepare(bench, contenders)
    outcome, sizes = Outcome(missing=bench.missing), bench.sizes
    outcome.write = floor.seconds_per_write(sizes.payload_bytes)
    ours = [one for one in contenders if one.feed == "package"]
    if "publish" in wanted:
        outcome.published = publishing.run(bench, quick=quick)
    if "fan-out" in wanted:
        for count in sizes.fan_out:
            outcome.fan_out[count] = cases.alternate(bench, contenders, count, "broadcast")
    if "processes" in wanted:
        outcome.processes = processes.run(bench, sizes.processes)
    if "idle" in wanted:
        idle = _idle(ours, quick=quick)
        outcome.idle[sizes.idle] = cases.alternate(bench, idle, sizes.idle, "idle")
    if "subscriptions" in wanted:
        outcome.subscriptions = subscriptions.run(bench, ours)
    if {"users", "crowd", "connects"}.intersection(wanted):
        _run_users(bench, contenders, wanted, outcome)
    return outcome


def _run_users(
    bench: Bench, contenders: list[Contender], wanted: list[str], outcome: Outcome
) -> None:
    """Measure what needs users who are logged in."""
    sizes = bench.sizes
    bench.cookies = cases.accounts(bench)
    if "users" in wanted:
        outcome.users[sizes.users] = cases.alternate(bench, contenders, sizes.users, "users")
    if "crowd" in wanted:
        ours = [one for one in contenders if one.feed == "package"]
        for count in sizes.crowd:
            outcome.crowd[count] = cases.alternate(bench, ours, count, "crowd")
    if "connects" in wanted:
        two = [one for one in contenders if one.key.startswith(("package-", "pubsub-"))]
        outcome.connects = cases.connects(bench, two)


def _idle(ours: list[Contender], *, quick: bool) -> list[Contender]:
    """Return the bare consumers, and this package on the same servers."""
    bare = [one for one in IDLE if one.quick or not quick]
    on = {one.server for one in bare}
    return [*bare, *(one for one in ours if one.server in on)]


def _write(folder: Path, text: str, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_relative_to(servers.CACHE):
        (servers.CACHE / ".gitignore").write_text("*\n")
    (folder / "benchmark.md").write_text(text)
    (folder / "benchmark.svg").write_text(picture.draw(outcome))
    figures = dataclasses.asdict(outcome)
    figures["published"] = [
        {"recipients": recipients, "persist": persist, "results": results}
        for (recipients, persist), results in outcome.published.items()
    ]
    (folder / "benchmark.json").write_text(json.dumps(figures, indent=1) + "\n")


def _lost(outcome: Outcome) -> int:
    """Return 1 if this package has lost a message, which is a defect whatever its speed."""
    by_count = [*outcome.fan_out.values(), *outcome.users.values(), *outcome.crowd.values()]
    for results in [*by_count, outcome.processes]:
        for key, rounds in results.items():
            if not key.startswith("package-"):
                continue
            surplus = sum(one["surplus"] for one in rounds)
            if lost(rounds) or surplus:
                print(f"broken: {key}: {lost(rounds)} lost, {surplus} twice", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
