"""For how long nobody waits for a Redis that has not answered."""

from __future__ import annotations

import pytest

from channels_ws4redis.store import silence
from channels_ws4redis.store.silence import LOOK, PAUSE, Silence, shortened


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(silence.time, "monotonic", lambda: now[0])
    return now


def test_one_looks_after_each_pause(clock):
    """Within the pause nobody does, and after it one alone, also if that one never comes back."""
    it = Silence()
    it.begin(clock[0])
    assert it.lasts
    assert not it.take_look()
    clock[0] += PAUSE
    assert [it.take_look() for _ in range(3)] == [True, False, False]
    clock[0] += LOOK + PAUSE
    assert it.take_look()


def test_a_look_in_vain_begins_another_pause(clock):
    """The error tells for how long Redis has been silent all in all."""
    it = Silence()
    it.begin(clock[0] - 6)
    clock[0] += PAUSE
    assert it.take_look()
    it.begin(clock[0])
    clock[0] += 0.5
    assert not it.take_look()
    assert str(it.error()) == "Redis has not answered for 9.5 s; it was not asked again."


def test_an_answer_ends_it(clock):
    """Whoever asked."""
    it = Silence()
    it.begin(clock[0])
    it.end()
    assert not it.lasts


@pytest.mark.parametrize(
    ("usual", "short"),
    [
        pytest.param({}, LOOK, id="none"),
        pytest.param({"socket_timeout": None}, LOOK, id="for ever"),
        pytest.param({"socket_timeout": 5.0}, LOOK, id="longer"),
        pytest.param({"socket_timeout": 0.2}, 0.2, id="shorter"),
    ],
)
def test_a_look_is_short(usual, short):
    """Whatever the connection's own time-out is."""
    assert shortened({"host": "x", **usual})["socket_timeout"] == short
