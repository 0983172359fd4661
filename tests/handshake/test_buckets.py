"""Token buckets, against one that counts its tokens."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.handshake.buckets import Bucket, Charge, Pace, overdrawn, pay

SECONDS = st.fractions(0, 5, max_denominator=8)


class Counted:
    """A bucket with tokens in it, fewer than none where some were taken in advance."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.capacity = self.tokens = pace.rate * pace.burst

    def pass_by(self, seconds: Fraction) -> None:
        """Let time pass."""
        self.tokens = min(self.capacity, self.tokens + self.pace.rate * seconds)

    def take(self, cost: int) -> Fraction | None:
        """Take tokens, and return how long it takes until they are there; None if too long."""
        wait = max(Fraction(0), Fraction(cost - self.tokens) / self.pace.rate)
        if self.tokens == self.capacity:
            wait = Fraction(0)
        if wait > self.pace.patience:
            return None
        self.tokens -= cost
        return wait


@given(
    st.builds(Pace, st.integers(1, 9), st.integers(1, 9), st.integers(0, 4)),
    st.lists(st.tuples(SECONDS, st.integers(1, 40))),
)
def test_a_bucket_gives_what_one_gives_that_counts(pace, steps):
    """The same is let through, after the same time, in numbers without rounding."""
    bucket, counted, now = Bucket(), Counted(pace), Fraction(1)
    bucket.full_at = Fraction(0)
    for seconds, cost in steps:
        now += seconds
        counted.pass_by(seconds)
        wait = bucket.wait(Fraction(cost), now, pace)
        assert wait == counted.take(cost)
        if wait is not None:
            bucket.take(Fraction(cost), now, pace)


@given(st.lists(st.tuples(SECONDS, st.integers(1, 10)), min_size=1))
def test_no_more_than_promised_in_any_time(steps):
    """What begins within some time is at most the burst, and the rate times that."""
    pace, bucket, now = Pace(5, 2, 3), Bucket(), Fraction(0)
    begun: list[tuple[Fraction, int]] = []
    bucket.full_at = Fraction(0)
    for seconds, cost in steps:
        now += seconds
        wait = bucket.wait(Fraction(cost), now, pace)
        if wait is not None:
            bucket.take(Fraction(cost), now, pace)
            begun.append((now + wait, cost))
    for first, (start, _) in enumerate(begun):
        total = 0
        for end, cost in begun[first:]:
            total += cost
            assert total <= 5 * 2 + 5 * (end - start) + 1e-6


def test_all_or_nothing():
    """What one bucket does not give is not taken from another; the longest time counts."""
    pace = Pace(rate=1, burst=1, patience=1)
    full, empty = Bucket(), Bucket()
    empty.take(2, 100, pace)
    charges = [Charge(full, 1, pace, "FULL"), Charge(empty, 1, pace, "EMPTY")]
    assert overdrawn(charges, 100) == "EMPTY"
    assert full.full_at == 0
    assert overdrawn(charges, 101) is None
    assert pay(charges, 101) == 1
    assert (full.full_at, empty.full_at) == (102, 103)
    assert overdrawn([], 100) is None
    assert pay([], 100) == 0
