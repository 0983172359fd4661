"""Which setting was probably meant by a name that is none. Private."""

from __future__ import annotations

import re

from channels_ws4redis.conf import NAMES
from channels_ws4redis.protocol.texts import meant_by

#: What the names of most settings begin with.
PREFIX = "WS4REDIS_"


def setting_meant_by(name: str) -> str | None:
    """Return the setting of the package that another name is a misspelling of, or None."""
    spelt = re.fullmatch(r"WS_?4?_?REDIS_?(.+)", name)
    if spelt is None:
        return meant_by(name, ["WEBSOCKET_URL"], 0.9)
    # Without their common beginning, by which any two of them are similar.
    ends = [each.removeprefix(PREFIX) for each in NAMES if each.startswith(PREFIX)]
    begins_alike = [end for end in ends if end[:4] == spelt[1][:4]]  # FACILITIES for FACILITY
    end = meant_by(spelt[1], begins_alike, 0.7) or meant_by(spelt[1], ends, 0.7)
    return None if end is None else PREFIX + end
