"""What was published, what each client got of it, and what is wrong with that. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """The counts that the torture test prints."""

    published: int = 0
    delivered: int = 0
    duplicated: int = 0
    reordered: int = 0
    recovered: int = 0
    reported_lost: int = 0
    lost_unreported: int = 0
    reconnects: int = 0
    #: Reports after which nothing turned out to be missing.
    false_alarms: int = 0

    @property
    def violated(self) -> bool:
        """True if a client was not told the truth."""
        return bool(self.duplicated or self.reordered or self.lost_unreported)


@dataclass(slots=True)
class Facility:
    """What publishers have sent to one facility: numbers from 1, each one acknowledged."""

    name: str
    #: When each number was acknowledged, by the clock of the event loop.
    times: list[float] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last acknowledged number."""
        return len(self.times)


class Ledger:
    """What one client has got, in the order in which it got it."""

    def __init__(self, facility: Facility) -> None:
        self.facility = facility
        self.recovered = 0
        self.reconnects = 0
        self.duplicated = 0
        self.reordered = 0
        self.delivered = 0
        #: Numbers after which a loss was reported.
        self._reports: list[int] = []
        self._last = 0
        self._seen: set[int] = set()
        #: Per fault, when it ended and when the first message published after it arrived.
        self.whole: list[float] = []
        self._waiting: list[float] = []

    def take(self, number: int, now: float) -> None:
        """Note a message."""
        self.delivered += 1
        if number in self._seen:
            self.duplicated += 1
        elif number < self._last:
            self.reordered += 1
        self._seen.add(number)
        self._last = max(self._last, number)
        times = self.facility.times
        # The acknowledgement may reach us after the message itself.
        sent = times[number - 1] if number <= len(times) else now
        while self._waiting and sent >= self._waiting[0]:
            self.whole.append(now - self._waiting.pop(0))

    def report(self) -> None:
        """Note that the client has been told that something is lost."""
        self._reports.append(self._last)

    def fault_ended(self, now: float) -> None:
        """Note a moment from which on messages should arrive again."""
        self._waiting.append(now)

    @property
    def complete(self) -> bool:
        """True if the last message has arrived."""
        return self._last >= self.facility.last

    def missing_of(self, numbers: Iterable[int]) -> int:
        """Return how many of these have not arrived."""
        return sum(number not in self._seen for number in numbers)

    def close(self, tally: Tally) -> None:
        """Add to the counts what this client has got and what it has not."""
        tally.delivered += self.delivered
        tally.duplicated += self.duplicated
        tally.reordered += self.reordered
        tally.recovered += self.recovered
        tally.reconnects += self.reconnects
        reports = set(self._reports)
        explained: set[int] = set()
        before = 0
        for number in range(1, self.facility.last + 1):
            if number in self._seen:
                before = number
            elif before in reports:
                tally.reported_lost += 1
                explained.add(before)
            else:
                tally.lost_unreported += 1
        tally.false_alarms += len(reports - explained)


def percentile(values: list[float], percent: float) -> float:
    """Return the value below which that many percent of the values are; 0 if there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
