"""``manage.py ws4redis``: what an operator sees and does of sockets, each by a subcommand."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from channels_ws4redis.management.facilities import Facilities
from channels_ws4redis.management.orders import Disconnect, Refresh
from channels_ws4redis.management.subcommands import Subcommand

SUBCOMMANDS: list[Subcommand] = [Facilities(), Disconnect(), Refresh()]


class Command(BaseCommand):
    """Hands over to a subcommand."""

    help = "Shows who may use which facilities, closes sockets, or looks at them again."

    def add_arguments(self, parser: CommandParser) -> None:
        """Have each subcommand add what it takes."""
        subparsers = parser.add_subparsers(metavar="subcommand", required=True)
        for subcommand in SUBCOMMANDS:
            text = subcommand.help
            own: CommandParser = subparsers.add_parser(subcommand.name, help=text, description=text)
            subcommand.add_arguments(own)
            # Django's own option, which would have to stand before the subcommand.
            own.add_argument("-v", "--verbosity", type=int, choices=range(4), default=SUPPRESS)
            own.set_defaults(subcommand=subcommand)

    def handle(self, *args: Any, subcommand: Subcommand, **options: Any) -> None:
        """Run the subcommand."""
        subcommand.handle(self, **options)
