"""What must hold: ratios within one run, of medians over its rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.cases import WAITING
from tests.benchmarks.outcome import Outcome, median, ratio


@dataclass(frozen=True)
class Target:
    """A figure, its bound, and how to find it in an outcome."""

    figure: str
    bound: float
    find: Callable[[Outcome], float | None]
    at_least: bool = False

    def holds(self, outcome: Outcome) -> bool | None:
        """Tell whether the bound is kept; None if the run lacks a contender for it."""
        found = self.find(outcome)
        if found is None:
            return None
        return found >= self.bound if self.at_least else found <= self.bound

    @property
    def text(self) -> str:
        """The bound, with its direction."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def _fan_out(count: int, key: str, *path: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: median(outcome.fan_out.get(count, {}).get(key), *path)


def _fan_out_ratio(
    count: int, above: str, below: str, phase: str
) -> Callable[[Outcome], float | None]:
    path = (phase, "server_cpu")
    return _ratio(_fan_out(count, above, *path), _fan_out(count, below, *path))


def _users(key: str) -> Callable[[Outcome], float | None]:
    def find(outcome: Outcome) -> float | None:
        largest = outcome.users[max(outcome.users)] if outcome.users else {}
        return median(largest.get(key), "paced", "server_cpu")

    return find


def _idle(key: str, figure: str = "bytes_per_socket") -> Callable[[Outcome], float | None]:
    def find(outcome: Outcome) -> float | None:
        largest = outcome.idle[max(outcome.idle)] if outcome.idle else {}
        return median(largest.get(key), figure)

    return find


def _user_memory(key: str) -> Callable[[Outcome], float | None]:
    def find(outcome: Outcome) -> float | None:
        largest = outcome.users[max(outcome.users)] if outcome.users else {}
        return median(largest.get(key), "bytes_per_socket")

    return find


def _longest_wait(key: str) -> Callable[[Outcome], float | None]:
    """Return the milliseconds that nearly everybody waits for less, of whatever they wait for."""

    def find(outcome: Outcome) -> float | None:
        largest = outcome.crowd[max(outcome.crowd)] if outcome.crowd else {}
        found = [median(largest.get(key), "busy", kind, "p99") for kind in WAITING]
        return max((each * 1e3 for each in found if each is not None), default=None)

    return find


def _connects(key: str) -> Callable[[Outcome], float | None]:
    def find(outcome: Outcome) -> float | None:
        return _fan_out(max(outcome.fan_out, default=0), key, "connect", "rate")(outcome)

    return find


def _logins(sessions: str, key: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: median(outcome.connects.get(sessions, {}).get(key), "connect", "rate")


def _published(recipients: int, key: str, *, persist: bool = True) -> Callable[..., float | None]:
    return lambda outcome: median(
        outcome.published.get((recipients, persist), {}).get(key), "median"
    )


def _redis_cpu(key: str) -> Callable[[Outcome], float | None]:
    """Return how to find what one publish costs Redis that is not stored."""
    return lambda outcome: median(outcome.published.get((1, False), {}).get(key), "redis_cpu")


def _new_connections(outcome: Outcome) -> float | None:
    figures = [
        median(results.get("package"), "new_connections") for results in outcome.published.values()
    ]
    return max((figure for figure in figures if figure is not None), default=None)


def _page(key: str, how_many: str, figure: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: median(outcome.subscriptions.get(key), how_many, figure)


def _further_kib(key: str) -> Callable[[Outcome], float | None]:
    """Return the KiB that nine further subscriptions take."""

    def find(outcome: Outcome) -> float | None:
        one, ten = (_page(key, how_many, "bytes")(outcome) for how_many in ("one", "ten"))
        return None if one is None or ten is None else (ten - one) / 1024

    return find


def _growth(key: str, figure: str) -> Callable[[Outcome], float | None]:
    def find(outcome: Outcome) -> float | None:
        few, many = min(outcome.fan_out, default=0), max(outcome.fan_out, default=0)
        if few == many:
            return None
        return ratio(
            _fan_out(many, key, "single", figure)(outcome),
            _fan_out(few, key, "single", figure)(outcome),
        )

    return find


def _ratio(
    above: Callable[[Outcome], float | None], below: Callable[[Outcome], float | None]
) -> Callable[[Outcome], float | None]:
    return lambda outcome: ratio(above(outcome), below(outcome))


_CPU = ("saturated", "server_cpu")
_RATE = ("saturated", "rate")

TARGETS = [
    *(
        Target(
            f"fan-out, {count:,} sockets, {server}, {load}: CPU per delivery ÷ own send loop",
            bound,
            _fan_out_ratio(count, f"package-{server}", f"ceiling-{server}", phase),
        )
        for count, server, load, phase, bound in (
            (500, "daphne", "one message at a time", "single", 0.25),
            (500, "daphne", "kept busy", "saturated", 0.4),
            (500, "uvicorn", "one message at a time", "single", 0.65),
            (500, "uvicorn", "kept busy", "saturated", 0.65),
            (2000, "daphne", "kept busy", "saturated", 0.4),
        )
    ),
    *(
        Target(
            f"fan-out, 500 sockets, {server}: CPU per delivery ÷ nchan",
            bound,
            _fan_out_ratio(500, f"package-{server}", "nchan", "saturated"),
        )
        for server, bound in (("uvicorn", 1.0), ("daphne", 1.6))
    ),
    Target(
        "fan-out, 500 sockets, daphne: rate ÷ legacy",
        1.6,
        _ratio(_fan_out(500, "package-daphne", *_RATE), _fan_out(500, "legacy", *_RATE)),
        at_least=True,
    ),
    Target(
        "fan-out, 500 sockets, daphne: textbook consumer's CPU ÷ ours",
        5,
        _ratio(_fan_out(500, "pubsub-daphne", *_CPU), _fan_out(500, "package-daphne", *_CPU)),
        at_least=True,
    ),
    Target(
        "fan-out, 500 sockets, uvicorn: rate ÷ legacy",
        4,
        _ratio(_fan_out(500, "package-uvicorn", *_RATE), _fan_out(500, "legacy", *_RATE)),
        at_least=True,
    ),
    *(
        Target(
            f"distinct users, {server}: CPU per delivery ÷ textbook consumer",
            0.5,
            _ratio(_users(f"package-{server}"), _users(f"pubsub-{server}")),
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"distinct users, {server}: CPU per delivery ÷ own send loop",
            bound,
            _ratio(_users(f"package-{server}"), _users(f"ceiling-{server}")),
        )
        for server, bound in (("daphne", 0.9), ("uvicorn", 1.0))
    ),
    Target(
        "publish_message, stored, 1 channel ÷ legacy",
        0.6,
        _ratio(_published(1, "package"), _published(1, "legacy")),
    ),
    Target(
        "publish_message, stored, 1,000 users ÷ legacy",
        0.12,
        _ratio(_published(1000, "package"), _published(1000, "legacy")),
    ),
    Target(
        "publish_message, stored, 1,000 users ÷ bare pipeline",
        1.5,
        _ratio(_published(1000, "package"), _published(1000, "bare")),
    ),
    Target(
        "publish_message, stored, 1 channel ÷ SET and PUBLISH by redis-py",
        1.1,
        _ratio(_published(1, "package"), _published(1, "plain")),
    ),
    Target(
        "Redis CPU per publish with keep=False, 1 channel ÷ bare PUBLISH",
        1.3,
        _ratio(_redis_cpu("unkept"), _redis_cpu("plain")),
    ),
    Target("new Redis connections per publish after the first", 0, _new_connections),
    *(
        Target(
            f"resident memory per idle socket, {server} ÷ bare consumer",
            1.10,
            _ratio(
                _idle(f"package-{server}"),
                _idle(f"bare-{server}"),
            ),
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"processor time per idle socket, {server} ÷ bare consumer",
            1.0,
            _ratio(_idle(f"package-{server}", "rest"), _idle(f"bare-{server}", "rest")),
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"resident memory per idle socket of a user, {server} ÷ textbook consumer",
            0.65,
            _ratio(_user_memory(f"package-{server}"), _user_memory(f"pubsub-{server}")),
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"ms that others wait while the largest crowd is written to, {server}, p99",
            50,
            _longest_wait(f"package-{server}"),
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"KiB that nine further subscriptions take, {server}",
            3,
            _further_kib(f"package-{server}"),
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"{what} with ten subscriptions on a socket, {server} ÷ with one",
            bound,
            _ratio(
                _page(f"package-{server}", "ten", figure), _page(f"package-{server}", "one", figure)
            ),
        )
        for server in ("daphne", "uvicorn")
        for what, figure, bound in (
            ("opening a page", "seconds", 1.3),
            ("CPU per delivery to a page", "delivery", 1.05),
        )
    ),
    *(
        Target(
            f"connect rate, {server} ÷ textbook consumer",
            1.0,
            _ratio(
                _connects(f"package-{server}"),
                _connects(f"pubsub-{server}"),
            ),
            at_least=True,
        )
        for server in ("daphne", "uvicorn")
    ),
    *(
        Target(
            f"connects of users, sessions in {sessions}, {server} ÷ textbook consumer",
            1.5,
            _ratio(
                _logins(sessions, f"package-{server}"),
                _logins(sessions, f"pubsub-{server}"),
            ),
            at_least=True,
        )
        for sessions in ("db", "cached_db", "cache")
        for server in ("daphne", "uvicorn")
    ),
    Target(
        "Redis bytes per publish, most sockets ÷ fewest",
        1.05,
        _growth("package-uvicorn", "redis_bytes"),
    ),
    Target(
        "Redis commands per publish, most sockets ÷ fewest",
        1.05,
        _growth("package-uvicorn", "redis_commands"),
    ),
]
