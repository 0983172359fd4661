"""What Redis has been asked on a connection that hears, and which answer belongs to what."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from channels_ws4redis.store.scripts import pack


class Unanswered:
    """The commands of one connection that Redis has not answered.

    Each command names one pub/sub channel at most, and so has one answer. Answers come in the order
    of the commands. A refusal does not name the channel, but its place tells which one is meant.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, str]] = deque()
        #: How often each pub/sub channel has been asked for.
        self._subscribing: Counter[str] = Counter()

    def add(self, command: str, names: Sequence[str] = ()) -> list[bytes]:
        """Note a command for each of some names, or one without; return what is to be sent."""
        self._waiting.extend((command, name) for name in names or [""])
        if command == "SUBSCRIBE":
            self._subscribing.update(names)
        return pack([(command, name) for name in names] or [(command,)])

    def take(self) -> str | None:
        """Note that the next answer has come.

        :returns: the pub/sub channel that it decides on; None if it is the answer to another
            command, or another one follows for the same channel. Whoever has left and come back has
            asked twice, and is out again until the second answer.
        """
        if not self._waiting:
            return None  # Redis has said something without being asked
        command, name = self._waiting.popleft()
        if command != "SUBSCRIBE":
            return None
        self._subscribing[name] -= 1
        if self._subscribing[name] > 0:
            return None
        del self._subscribing[name]
        return name
