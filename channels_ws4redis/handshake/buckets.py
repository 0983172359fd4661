"""Token buckets: how often something may be done, in the long run and at once. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Pace(NamedTuple):
    """How fast a bucket fills, and how far it may be overdrawn."""

    #: Tokens that come in each second.
    rate: float
    #: Seconds whose tokens fit in.
    burst: float
    #: Seconds that somebody waits for tokens at most.
    patience: float


class Bucket:
    """A token bucket, full at its beginning (the generic cell rate algorithm of ITU-T I.371).

    It knows only when it will be full again, which needs no timer.
    """

    __slots__ = ("full_at",)

    def __init__(self) -> None:
        self.full_at = 0.0

    def wait(self, cost: float, now: float, pace: Pace) -> float | None:
        """Return the seconds until there are so many tokens; None if that takes too long.

        From a full bucket anything may be taken at once, also more than fits in.
        """
        if self.full_at <= now:
            return 0.0
        seconds = self.full_at - now + cost / pace.rate - pace.burst
        return None if seconds > pace.patience else max(0.0, seconds)

    def take(self, cost: float, now: float, pace: Pace) -> None:
        """Take tokens, also such as are still to come."""
        self.full_at = max(self.full_at, now) + cost / pace.rate


class Charge(NamedTuple):
    """What something costs, and from which bucket that is taken."""

    bucket: Bucket
    cost: float
    pace: Pace
    #: The setting that says how fast the bucket fills.
    setting: str


def overdrawn(charges: Iterable[Charge], now: float) -> str | None:
    """Return the setting by which something costs more than there is; None if it may be done."""
    for bucket, cost, pace, setting in charges:
        if bucket.wait(cost, now, pace) is None:
            return setting
    return None


def pay(charges: Iterable[Charge], now: float) -> float:
    """Take what something costs, and return the seconds for which it has to wait."""
    seconds = 0.0
    for bucket, cost, pace, _ in charges:
        seconds = max(seconds, bucket.wait(cost, now, pace) or 0.0)
        bucket.take(cost, now, pace)
    return seconds
