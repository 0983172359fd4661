"""``manage.py ws4redis disconnect`` and ``refresh``."""

from __future__ import annotations

from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_ws4redis.ordering import make_orders, send
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.store.clients import UNREACHABLE

#: What sockets may be chosen by, and what stands for it in the help.
_CHOICES: Final = {
    "user": ("NAME", "name of a user, as it was when the socket connected"),
    "session": ("KEY", "key of a session"),
    "group": ("NAME", "name of an auth group"),
    "facility": ("FACILITY", "part of the socket's URL path after WEBSOCKET_URL"),
}


class Ordering:
    """A subcommand that gives an order to all processes.

    :param closes: whether the clients have to be told something.
    """

    def __init__(self, action: Action, text: str, closes: bool) -> None:
        self.NAME = action.value
        self.HELP = text
        self._action = action
        self._closes = closes

    def add_arguments(self, parser: CommandParser) -> None:
        """Tell what the subcommand takes."""
        for name, (metavar, text) in _CHOICES.items():
            repeatable = name != "facility"
            parser.add_argument(
                f"--{name}",
                metavar=metavar,
                action="append" if repeatable else "store",
                help=f"{text}; may be repeated" if repeatable else text,
            )
        if self._closes:
            parser.add_argument("--code", type=int, default=codes.REVOKED, help="the close code")
            parser.add_argument("--reason", default="", help="is told to the clients")

    def run(self, command: BaseCommand, **options: Any) -> None:
        """Give the order; the processes carry it out by themselves.

        :raises django.core.management.CommandError: if it cannot be given.
        """
        chosen = {
            "users": options["user"],
            "sessions": options["session"],
            "groups": options["group"],
            "facility": options["facility"],
        }
        if self._closes:
            chosen |= {"code": options["code"], "reason": options["reason"]}
        try:
            send(make_orders(self._action, **chosen))
        except TypeError:
            raise CommandError(
                "Name the sockets by at least one of --user, --session, --group and --facility."
            ) from None
        except (ValueError, *UNREACHABLE) as error:
            raise CommandError(reason_of(error)) from error


DISCONNECT: Final = Ordering(
    Action.DISCONNECT, "Close the sockets that all given options choose.", closes=True
)
REFRESH: Final = Ordering(
    Action.REFRESH, "Find out again who sockets are and what they may use.", closes=False
)
