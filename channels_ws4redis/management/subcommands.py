"""What a subcommand of ``manage.py ws4redis`` is."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser


class Subcommand:
    """One subcommand; its methods are those of Django's ``BaseCommand``."""

    name: str
    help: str

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what the subcommand takes, by default nothing."""

    def handle(self, command: BaseCommand, **options: Any) -> None:
        """Do it.

        :param command: output goes to its ``stdout``.
        :raises django.core.management.CommandError: if it cannot be done.
        """
        raise NotImplementedError
