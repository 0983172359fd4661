"""What somebody is sent, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Iterable

from channels_ws4redis.protocol.history import Lost
from channels_ws4redis.protocol.messages import Event


def told(items: Iterable[Event | Lost] | None) -> list[int | str]:
    """Return offsets, and "lost 3" for a loss up to 3."""
    return [
        f"lost {item.position.offset}" if isinstance(item, Lost) else item.offset
        for item in items or []
    ]
