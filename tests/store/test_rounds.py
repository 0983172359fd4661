"""Turns of clients: everybody has one in each round, whatever waits for the others."""

from __future__ import annotations

from channels_ws4redis.store.rounds import Rounds


def served(rounds: Rounds[str]) -> list[str]:
    """Take all that waits, always the oldest of the client that is next in turn."""
    taken = []
    while len(rounds):
        whom, items = next(iter(rounds))
        taken.append(next(iter(items)))
        rounds.take(whom, taken[-1])
    return taken


def rounds_of(*items: str) -> Rounds[str]:
    """Have things wait, each for the client of its first letter."""
    rounds: Rounds[str] = Rounds()
    for item in items:
        rounds.add(item[0], item)
    return rounds


def test_everybody_has_one_turn_in_each_round() -> None:
    """Those of one client are taken in the order of their coming."""
    assert served(rounds_of("a1", "a2", "a3", "b1", "c1", "c2")) == [
        *("a1", "b1", "c1"),
        *("a2", "c2"),
        "a3",
    ]


def test_what_waits_already_keeps_its_place() -> None:
    assert served(rounds_of("a1", "a2", "b1", "a1")) == ["a1", "b1", "a2"]


def test_what_gives_up_costs_its_client_no_turn() -> None:
    """And nothing is left of whoever has nothing more."""
    rounds = rounds_of("a1", "a2", "b1", "c1")
    assert rounds.discard("a", "a1")
    assert rounds.discard("b", "b1")
    assert not rounds.discard("b", "b1")
    assert not rounds.discard("c", "a2")
    assert len(rounds) == 2
    assert served(rounds) == ["a2", "c1"]


def test_whoever_is_passed_over_stays_first() -> None:
    rounds = rounds_of("a1", "b1", "b2")
    rounds.take("b", "b1")
    assert served(rounds) == ["a1", "b2"]
