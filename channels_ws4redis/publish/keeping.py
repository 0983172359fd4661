"""What the arguments of a publish say of keeping a message; a part of `redis_store`. Private."""

from __future__ import annotations

from typing import Any

from channels_ws4redis.conf import MAX_EXPIRE
from channels_ws4redis.handshake.policies import Options
from channels_ws4redis.protocol.texts import is_encodable

#: The largest number in a column of a database, and so the largest version of a state.
MAX_VERSION = 2**63 - 1


def is_kept(options: Options, keep: Any) -> bool:
    """Tell whether a message is kept.

    :param options: those of the facility's policy, which decide if `keep` is None.
    :raises ValueError: if `keep` is no answer.
    """
    if keep is None:
        return options.keep
    if isinstance(keep, bool):
        return keep
    raise ValueError(f"keep={keep!r} is neither True nor False.")


def require_nothing_kept(keep: bool | None, **needing: Any) -> None:
    """Refuse arguments that make no sense for a message that is not kept.

    :param keep: None if it is the policy that says so.
    :param needing: what needs something to be kept, unless it is None.
    :raises ValueError: if there is any.
    """
    for name, value in needing.items():
        if value is not None:
            who = "The policy of the facility says " if keep is None else ""
            remedy = f"pass that, or leave {name} out"
            raise ValueError(f"{who}keep=False, and {name}={value!r} needs keep=True; {remedy}.")


def as_seconds(name: str, value: Any, least: int = 0) -> int:
    """Return the seconds for which something is kept.

    :raises ValueError: if they are no whole number that Redis can count.
    """
    return as_number(name, value, least, MAX_EXPIRE, "of seconds ")


def as_key(key: Any) -> str:
    """Return an idempotency key, "" if there is none.

    :raises ValueError: if it is no text that can be a part of a name.
    """
    if key is None:
        return ""
    if isinstance(key, str) and is_encodable(key):
        return key
    raise ValueError(f"idempotency_key={key!r} is no text; pass one, such as f'paid-{{order.pk}}'.")


def as_version(version: Any) -> int | None:
    """Return the version of a state, None if there is none.

    :raises ValueError: if it is no whole number that a database would take.
    """
    return None if version is None else as_number("version", version, 0, MAX_VERSION)


def as_number(name: str, value: Any, least: int, most: int | None = None, what: str = "") -> int:
    """Return a whole number.

    :param name: of the argument.
    :param what: of which it is a number.
    :raises ValueError: if it is none, or too small or too large.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or value < least or (most is not None and value > most):
        until = f"from {least} to {most}" if most is not None else f"from {least} up"
        raise ValueError(f"{name}={value!r} is no whole number {what}{until}.")
    return int(value)
