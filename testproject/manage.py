#!/usr/bin/env python
"""Django's command-line utility for the demo project."""

import contextlib
import os
import sys

from django.core.management import execute_from_command_line

from testproject import embedded, paths

# These commands serve the demo and so bring the Redis server along; all others use what runs.
SERVING = frozenset({"runserver", "demo"})


def main() -> None:
    """Run a management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    with contextlib.ExitStack() as stack:
        if sys.argv[1:2] and sys.argv[1] in SERVING and "--help" not in sys.argv:
            # The environment tells the settings, and the autoreloader's child, which therefore
            # does not start a second server.
            os.environ["REDIS_URL"] = stack.enter_context(
                embedded.shared_server(paths.REDIS_URL_FILE)
            )
        try:
            execute_from_command_line(sys.argv)
        except KeyboardInterrupt:
            sys.exit(130)  # what a shell says of a program that Ctrl-C has ended


if __name__ == "__main__":
    main()
