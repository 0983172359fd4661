"""Whose turn it is: everybody for whom something waits has one turn in each round."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Rounds(Generic[T]):
    """What waits, for each of several clients in the order of its coming.

    Which of a client's things is taken, and who has to be passed over, is for whoever takes.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        #: The first client is the next in turn.
        self._waiting: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()

    def add(self, whom: Hashable, item: T) -> None:
        """Have something wait for a client; what waits already keeps its place."""
        self._waiting.setdefault(whom, OrderedDict())[item] = None

    def discard(self, whom: Hashable, item: T) -> bool:
        """Have something wait no longer; False if it has not been waiting for this client."""
        items = self._waiting.get(whom)
        if items is None or item not in items:
            return False
        del items[item]
        if not items:
            del self._waiting[whom]
        return True

    def take(self, whom: Hashable, item: T) -> None:
        """Take what waits for a client, who is the last one in turn then."""
        self.discard(whom, item)
        if whom in self._waiting:
            self._waiting.move_to_end(whom)

    def __iter__(self) -> Iterator[tuple[Hashable, OrderedDict[T, None]]]:
        """Yield the clients in their turns, each with what waits for it, the oldest first."""
        yield from self._waiting.items()

    def __len__(self) -> int:
        """Return for how many clients something waits."""
        return len(self._waiting)
