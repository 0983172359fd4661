"""manage.py demo: everything that the demo needs, in one command."""

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError
from twisted.internet import reactor

from chat import figures
from testproject.asgi import application

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORTS_TO_TRY = 100
FEED_INTERVAL = 0.5  # seconds

BANNER = """
  The demo is at {url}

  Log in as {john} or as {mary}, the password is {password}; or look around as a guest.
  Use two browsers, or a private window for the second user, and let them chat.

  The dashboard at {url}dashboard/ moves by itself.
  Pages in the style of the legacy package are at {url}legacy/

  Another process reaches the same Redis server, for example
    {python} testproject/manage.py shell
    >>> from channels_ws4redis.publisher import RedisPublisher
    >>> RedisPublisher(facility="dashboard", broadcast=True).publish_message('{{"visitors": 99}}')

  Ctrl-C ends the demo.
"""


class Command(BaseCommand):
    """Runs daphne in this process; manage.py has started the Redis server before."""

    help = "Prepare the database, start everything and serve the demo."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--port", type=int, default=8000, help="the first port to try")
        parser.add_argument(
            "--no-feed",
            action="store_false",
            dest="feed",
            help="leave the dashboard to `manage.py feed`",
        )

    def handle(self, *, port: int, feed: bool, **_options: Any) -> None:
        """Serve until SIGINT or SIGTERM."""
        call_command("migrate", verbosity=0, interactive=False)
        call_command("loaddata", "demo", verbosity=0)
        port = _first_free_port(port)
        server = Server(
            application,
            endpoints=build_endpoint_description_strings(host=HOST, port=port),
            ready_callable=lambda: self._show_address(port),
        )
        with _feeding() if feed else contextlib.nullcontext():
            server.run()
        self.stdout.write("The demo has ended.")

    def _show_address(self, port: int) -> None:
        style = self.style.SUCCESS
        text = BANNER.format(
            url=style(f"http://{HOST}:{port}/"),
            john=style("john"),
            mary=style("mary"),
            password=style("secret"),
            python=os.path.relpath(sys.executable),
        )
        self.stdout.write(text)
        self.stdout.flush()  # whoever started the demo may read its output through a pipe


@contextlib.contextmanager
def _feeding() -> Iterator[None]:
    """Publish to the dashboard from a thread, which ends with the process in any case."""
    stopped = threading.Event()
    # At the signal itself: until the server has ended, whatever else was told to end is gone.
    reactor.addSystemEventTrigger("before", "shutdown", stopped.set)
    thread = threading.Thread(target=_feed, args=[stopped], daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=2)


def _feed(stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            figures.feed(FEED_INTERVAL, stopped)
        except RedisError as error:
            if not stopped.wait(FEED_INTERVAL):
                logger.warning("The dashboard gets no numbers: %s", error)


def _first_free_port(first: int) -> int:
    for port in range(first, first + PORTS_TO_TRY):
        with socket.socket() as probe:
            # As the server does it: connections of a demo that has just ended do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise CommandError(f"No port between {first} and {first + PORTS_TO_TRY - 1} is free.")
