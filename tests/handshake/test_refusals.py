"""What the log says of refused sockets, and how often."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from channels_ws4redis.handshake import refusals
from channels_ws4redis.handshake.refusals import (
    LINES,
    BusyError,
    FewLines,
    RefusedError,
    counted,
    few_lines,
    tell,
)

logger = logging.getLogger("channels_ws4redis.consumers")
logger.addFilter(few_lines)


def refuse(path: str = "/ws/room", reason: str = "origin", times: int = 1) -> None:
    """Refuse sockets."""
    for _ in range(times):
        tell(logger, logging.WARNING, "Refused", path, RefusedError("we know it", reason))


@pytest.fixture(autouse=True)
def nothing_counted():
    """Count from nothing."""
    counted().clear()


def test_one_line_says_why(caplog):
    """Whatever the client has sent."""
    refuse("/ws/a\r\nERROR Redis is gone")
    tell(logger, logging.ERROR, "Closing", "/ws/a", OSError("a\nb"))
    tell(logger, logging.WARNING, "Cannot open", "/ws/a", BusyError("it is too much", "threads"))
    assert caplog.messages == [
        "Refused the socket '/ws/a\\r\\nERROR Redis is gone': we know it",
        "Closing the socket '/ws/a': OSError: a b",
        "Cannot open the socket '/ws/a': it is too much",
    ]


def test_reasons_are_counted():
    """By a word of their own, or by the class of an exception; what is for debugging is none."""
    refuse(times=30)
    refuse(reason="path")
    tell(logger, logging.ERROR, "Closing", "/ws/a", OSError("gone"))
    tell(logger, logging.WARNING, "Closing", "/ws/a", "its client reads too slowly")
    tell(logger, logging.DEBUG, "The client has left", "/ws/a", "before it was let in")
    assert counted() == Counter(
        {"origin": 30, "path": 1, "OSError": 1, "its client reads too slowly": 1}
    )


def test_a_flood_writes_few_lines(caplog, monkeypatch):
    """Of each reason; when a minute is over, one line says how many there were."""
    now = 1000.0
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now)
    refuse(times=1000)
    refuse(reason="path")
    assert len(caplog.messages) == LINES + 1
    now += 61
    caplog.clear()
    refuse()
    assert caplog.messages == [
        "Left out 980 lines within a minute, for the same reason: origin",
        "Refused the socket '/ws/room': we know it",
    ]
    now += 61
    caplog.clear()
    refuse()
    assert len(caplog.messages) == 1


async def test_a_flood_that_ends_is_told_all_the_same(caplog, monkeypatch):
    """Although nothing comes after it."""
    monkeypatch.setattr(refusals, "PERIOD", 0.05)
    refuse(times=100)
    async with asyncio.timeout(10):
        while f"Left out {100 - LINES} lines" not in caplog.text:  # noqa: ASYNC110 # a log
            await asyncio.sleep(0.01)
    assert caplog.text.count("Left out") == 1


def test_lines_without_a_reason_count_by_their_text(caplog):
    """A stranger may have a hook fail as often as he likes."""
    own = logging.getLogger("tests.of.refusals")
    own.addFilter(FewLines())
    for number in range(100):
        own.error("The hook failed for %s", number)
        own.error("Another one failed for %s", number)
        own.info("For whoever looks: %s", number)
    assert len(caplog.messages) == 2 * LINES
    own.setLevel(logging.INFO)
    for number in range(100):
        own.info("For whoever looks: %s", number)
    assert len(caplog.messages) == 2 * LINES + 100
