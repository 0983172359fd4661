"""``manage.py ws4redis facilities``: the policies in the order in which they are asked."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from django.core.management.base import BaseCommand

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.policies import NO_OPTIONS, Options, Policy, policies
from channels_ws4redis.management.subcommands import Subcommand

_HEADINGS = ("route", "function", "options", "clients publish with")


class Facilities(Subcommand):
    """Lists the policies, and says what holds for all other facilities."""

    name = "facilities"
    help = "Lists the policies of facilities in the order in which they are asked."

    def handle(self, command: BaseCommand, **options: Any) -> None:
        """Print a line for each policy, and one for all other facilities."""
        rows = [_row(policy) for policy in policies]
        table = [_HEADINGS, *rows] if rows else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            command.stdout.write("  ".join(cells).rstrip())
        command.stdout.write(f"Every {'other ' if rows else ''}facility: {_others()}.")


def _row(policy: Policy) -> tuple[str, str, str, str]:
    flags = ", ".join(sorted(policy.options.publish))
    return policy.route, policy.name, _changed(policy.options), flags or "-"


def _changed(options: Options) -> str:
    """Return the options that differ from those without a policy, but for ``publish``."""
    changed = [
        f"{field.name}={getattr(options, field.name)}"
        for field in fields(options)
        if field.name != "publish"
        and getattr(options, field.name) != getattr(NO_OPTIONS, field.name)
    ]
    return " ".join(changed) or "-"


def _others() -> str:
    """Return what holds for facilities that no policy names."""
    if settings.WS4REDIS_FACILITIES == "strict":
        return "refused, as WS4REDIS_FACILITIES is 'strict'"
    hook = settings.WS4REDIS_ALLOWED_CHANNELS
    who = "open" if hook is None else f"as {getattr(hook, '__qualname__', hook)} decides"
    publish = "do not publish" if settings.WS4REDIS_ALLOW_PUBLISH is False else "publish"
    return f"{who}; clients {publish}"
