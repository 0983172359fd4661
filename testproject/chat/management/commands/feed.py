"""manage.py feed: publish the dashboard's numbers."""

from threading import Event
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import ConnectionError as RedisConnectionError

from chat import figures


class Command(BaseCommand):
    """Publishes from a process of its own, as a worker or a cron job would."""

    help = "Publish a number to the dashboard every half second, until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--interval", type=float, default=0.5, help="seconds between numbers")
        parser.add_argument("--count", type=int, help="stop after so many numbers")

    def handle(self, *, interval: float, count: int | None, **_options: Any) -> None:
        """Publish."""
        try:
            figures.feed(interval, Event(), count)
        except RedisConnectionError as error:
            raise CommandError(f"{error} Is the demo running?") from error
        except KeyboardInterrupt:
            pass
