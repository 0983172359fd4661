"""Which of the names that exist was probably meant by one that does not. Private."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from channels_ws4redis.conf import NAMES

#: What the names of most settings begin with.
PREFIX = "WS4REDIS_"


def meant_by(name: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the known name that another name is most similar to, None if it is like none.

    :param similarity: from 0 to 1, as difflib measures it.
    """
    return next(iter(get_close_matches(name, list(known), 1, similarity)), None)


def setting_meant_by(name: str) -> str | None:
    """Return the setting of the package that another name is a misspelling of, or None."""
    spelt = re.fullmatch(r"WS_?4?_?REDIS_?(.+)", name)
    if spelt is None:
        return meant_by(name, ["WEBSOCKET_URL"], 0.9)
    # Without their common beginning, by which any two of them are similar.
    ends = [each.removeprefix(PREFIX) for each in NAMES if each.startswith(PREFIX)]
    end = meant_by(spelt[1], ends, 0.7)
    return None if end is None else PREFIX + end
