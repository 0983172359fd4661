"""``manage.py ws4redis disconnect`` and ``refresh``."""

from __future__ import annotations

from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_ws4redis.management.subcommands import Subcommand
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.publish.ordering import make_orders, send
from channels_ws4redis.store.clients import UNREACHABLE

#: The options that choose sockets: the argument of `make_orders`, what stands for a value in the
#: help, and the help.
_CHOICES: Final = {
    "--user": ("users", "NAME", "name of a user, as it was when the socket connected"),
    "--session": ("sessions", "KEY", "key of a session"),
    "--group": ("groups", "NAME", "name of an auth group"),
}


class OrderSubcommand(Subcommand):
    """Gives an order to all processes, which carry it out by themselves."""

    action: Action

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options that choose sockets."""
        for option, (argument, metavar, text) in _CHOICES.items():
            parser.add_argument(
                option,
                dest=argument,
                metavar=metavar,
                action="append",
                help=f"{text}; may be repeated",
            )
        parser.add_argument("--facility", help="part of the socket's URL path after WEBSOCKET_URL")

    def handle(self, command: BaseCommand, **options: Any) -> None:
        """Give the order.

        :raises django.core.management.CommandError: if it cannot be given.
        """
        arguments = ("users", "sessions", "groups", "facility", "code", "reason")
        chosen = {name: options[name] for name in arguments if name in options}
        try:
            orders = make_orders(self.action, **chosen)
            send(orders)
        except TypeError:
            raise CommandError(
                "Name the sockets by at least one of --user, --session, --group and --facility."
            ) from None
        except (ValueError, *UNREACHABLE) as error:
            raise CommandError(reason_of(error)) from error
        if not orders:
            raise CommandError("A name is empty and chooses no sockets; nothing was ordered.")
        if options["verbosity"]:
            command.stdout.write(
                f"Ordered: {self.action.value} sockets. Each process does so, and logs how many."
            )


class Disconnect(OrderSubcommand):
    """Closes sockets."""

    name = "disconnect"
    help = "Close the sockets that all given options choose."
    action = Action.DISCONNECT

    def add_arguments(self, parser: CommandParser) -> None:
        """Add also what the clients are told."""
        super().add_arguments(parser)
        parser.add_argument("--code", type=int, default=codes.REVOKED, help="the close code")
        parser.add_argument("--reason", default="", help="is told to the clients")


class Refresh(OrderSubcommand):
    """Has sockets looked at again."""

    name = "refresh"
    help = "Find out again who sockets are and what they may use."
    action = Action.REFRESH
