"""What a socket may use: the names of the channels that it hears, and of those it publishes to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Rights(NamedTuple):
    """What a socket may use at a moment: names of channels."""

    hears: frozenset[str] = frozenset()
    #: Those to which its client publishes.
    publishes: frozenset[str] = frozenset()

    def without(self, channels: Iterable[str]) -> Rights:
        """Return the rights without those on some channels."""
        gone = frozenset(channels)
        return Rights(self.hears - gone, self.publishes - gone)

    def within(self, others: Rights) -> Rights:
        """Return those of the rights that are among others."""
        return Rights(self.hears & others.hears, self.publishes & others.publishes)

    def beyond(self, others: Rights) -> Rights:
        """Return those of the rights that are not among others."""
        return Rights(self.hears - others.hears, self.publishes - others.publishes)

    def beside(self, others: Rights) -> Rights:
        """Return the rights together with others."""
        return Rights(self.hears | others.hears, self.publishes | others.publishes)

    def __bool__(self) -> bool:
        return bool(self.hears or self.publishes)


@lru_cache(maxsize=1024)
def shared(rights: Rights) -> Rights:
    """Return the same object for the same rights: most sockets of a facility are granted the same.

    They are kept for each socket as long as it is open.
    """
    return rights
