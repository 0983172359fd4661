"""What the arguments of a publish say of keeping a message; a part of `redis_store`. Private."""

from __future__ import annotations

from typing import Any

from channels_ws4redis.conf import MAX_EXPIRE
from channels_ws4redis.handshake.policies import Options


def is_kept(options: Options, expire: int | None, key: str, keep: Any) -> bool:
    """Tell whether a message is kept.

    :param options: those of the facility's policy, which decide if `keep` is None.
    :raises ValueError: if `keep` is no answer, or another argument needs something to be kept.
    """
    if keep is not None and not isinstance(keep, bool):
        raise ValueError(f"keep={keep!r} is neither True nor False.")
    kept = options.keep if keep is None else keep
    if not kept and (expire or key):
        who = "The policy of the facility says " if keep is None else ""
        name, value = ("expire", expire) if expire else ("idempotency_key", key)
        remedy = f"pass that, or leave {name} out"
        raise ValueError(f"{who}keep=False, and {name}={value!r} needs keep=True; {remedy}.")
    return kept


def as_seconds(expire: Any) -> int:
    """Return the seconds for which a message is stored.

    :raises ValueError: if they are no whole number that Redis can count.
    """
    if isinstance(expire, bool) or not isinstance(expire, int) or not 0 <= expire <= MAX_EXPIRE:
        raise ValueError(f"expire={expire!r} is no whole number of seconds from 0 to {MAX_EXPIRE}.")
    return expire
