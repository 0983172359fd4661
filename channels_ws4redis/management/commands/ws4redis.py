"""``manage.py ws4redis``: what an operator sees and does of sockets, each by a subcommand."""

from __future__ import annotations

from typing import Any, Protocol

from django.core.management.base import BaseCommand, CommandParser

from channels_ws4redis.management import facilities
from channels_ws4redis.management.revoking import DISCONNECT, REFRESH


class Subcommand(Protocol):
    """One subcommand: a module, or an object."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: CommandParser) -> None:
        """Tell what the subcommand takes."""

    def run(self, command: BaseCommand, **options: Any) -> None:
        """Do it; output goes to ``command.stdout``.

        :raises django.core.management.CommandError: if it cannot be done.
        """


SUBCOMMANDS: list[Subcommand] = [facilities, DISCONNECT, REFRESH]


class Command(BaseCommand):
    """Hands over to a subcommand."""

    help = "Shows who may use which facilities, closes sockets, or looks at them again."

    def add_arguments(self, parser: CommandParser) -> None:
        """Have each subcommand tell what it takes."""
        subparsers = parser.add_subparsers(metavar="subcommand", required=True)
        for subcommand in SUBCOMMANDS:
            name, text = subcommand.NAME, subcommand.HELP
            own: CommandParser = subparsers.add_parser(name, help=text, description=text)
            subcommand.add_arguments(own)
            own.set_defaults(subcommand=subcommand)

    def handle(self, *args: Any, subcommand: Subcommand, **options: Any) -> None:
        """Run the subcommand."""
        subcommand.run(self, **options)
