"""The results of a run, and medians over its rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.cases import Results
from tests.benchmarks.publishing import Published


@dataclass
class Outcome:
    """Everything that a run has measured."""

    #: By number of sockets on one facility.
    fan_out: dict[int, Results] = field(default_factory=dict)
    #: One socket for each of so many users.
    users: dict[int, Results] = field(default_factory=dict)
    #: Users who connect, by the session engine.
    connects: dict[str, Results] = field(default_factory=dict)
    #: Sockets of consumers that only accept.
    idle: dict[int, Results] = field(default_factory=dict)
    #: By number of sockets on one facility: how long others wait meanwhile.
    crowd: dict[int, Results] = field(default_factory=dict)
    #: This package in several processes, all with sockets on one facility.
    processes: Results = field(default_factory=dict)
    #: This package: pages with one subscription, and with ten.
    subscriptions: Results = field(default_factory=dict)
    published: Published = field(default_factory=dict)
    #: Seconds of processor time for a bare write to a socket.
    write: float | None = None
    #: Why a contender was not measured.
    missing: dict[str, str] = field(default_factory=dict)


def median(rounds: list[dict[str, Any]] | None, *path: str) -> float | None:
    """Return the median over the rounds of the figure at ``path``; None if there is none."""
    if not rounds:
        return None
    return statistics.median(_figure(one, path) for one in rounds)


def _figure(one: dict[str, Any], path: tuple[str, ...]) -> float:
    found: Any = one
    for key in path:
        found = found[key]
    return float(found)


def ratio(above: float | None, below: float | None) -> float | None:
    """Return the quotient, None if either is lacking."""
    if above is None or not below:
        return None
    return above / below


def cost_at(results: Results) -> str:
    """Return the phase whose processor time counts: at equal load if that was measured."""
    for rounds in results.values():
        if rounds:
            return "paced" if "paced" in rounds[0] else "saturated"
    return "saturated"


def lost(rounds: list[dict[str, Any]]) -> int:
    """Return how many deliveries have not arrived."""
    phases = ("saturated", "paced", "single", "busy")
    return sum(one[phase]["lost"] for one in rounds for phase in phases if phase in one)
