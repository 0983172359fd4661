"""A shortened run of the torture test, and the oracle's own arithmetic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from tests.torture import outage
from tests.torture.__main__ import main
from tests.torture.oracle import Facility, Ledger, Tally, percentile
from tests.torture.proxy import Proxy

#: WS4REDIS_TEST_TORTURE=120 makes it thorough.
SECONDS = os.environ.get("WS4REDIS_TEST_TORTURE", "20")


def ledger(*entries: int | str, published: int) -> Tally:
    """Return the counts of a client that saw these numbers and reports."""
    facility = Facility("foo", [float(index) for index in range(published)])
    ledger = Ledger(facility)
    for entry in entries:
        if isinstance(entry, int):
            ledger.take(entry, 100.0)
        else:
            ledger.report()
    tally = Tally()
    ledger.close(tally)
    return tally


@pytest.mark.parametrize(
    ("entries", "counts"),
    [
        ([1, 2, 3, 4], (0, 0, 0, 0)),
        ([1, 2, 4], (0, 0, 0, 1)),
        ([1, 2, "lost", 4], (0, 0, 1, 0)),
        (["lost", 4], (0, 0, 3, 0)),
        ([1, 2, "lost"], (0, 0, 2, 0)),
        ([1, 2], (0, 0, 0, 2)),
        ([1, "lost", 2, 4], (0, 0, 0, 1)),
        ([1, 2, 2, 3, 4], (1, 0, 0, 0)),
        ([1, 3, 2, 4], (0, 1, 0, 0)),
    ],
)
def test_the_oracle_counts(entries: list[int | str], counts: tuple[int, ...]) -> None:
    tally = ledger(*entries, published=4)
    found = tally.duplicated, tally.reordered, tally.reported_lost, tally.lost_unreported
    assert found == counts
    assert tally.violated == bool(tally.duplicated or tally.reordered or tally.lost_unreported)


def test_being_whole_begins_with_a_message_sent_after_the_fault() -> None:
    ledger = Ledger(Facility("foo", [1.0, 5.0, 9.0]))
    ledger.fault_ended(4.0)
    ledger.take(1, 4.5)
    assert ledger.whole == []
    ledger.take(2, 5.5)
    assert ledger.whole == [1.5]


def test_percentile() -> None:
    assert percentile([], 99) == 0
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 3.0
    assert percentile([1.0], 99) == 1.0


@pytest.mark.parametrize("turns", range(8))
async def test_a_proxy_that_ends_leaves_no_connection(turns: int) -> None:
    """Also not one that it was just about to take, or to lead on."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        proxy = Proxy(target.getsockname()[1])
        await proxy.start()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await proxy.close()
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(client.recv, 1) == b""


@pytest.mark.server
@pytest.mark.parametrize("seconds", ["2", "8"])
def test_what_is_kept_by_default_is_recovered(capsys, seconds: str) -> None:
    """After an outage in which less was missed than the history holds, or more."""
    arguments = ["--seconds", seconds, "--clients", "20", "--facilities", "5"]
    assert outage.main(arguments) == 0
    counts = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines())
    lost = max(0, int(counts["missed, on each facility"]) - outage.HISTORY)
    assert int(counts["lost and reported"]) == pytest.approx(20 * lost, abs=20 * 5)
    assert lost > 0 if seconds == "8" else lost == 0


@pytest.mark.server
@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_nothing_is_lost_unreported(capsys, server: str) -> None:
    """The command itself fails if a client was not told the truth."""
    assert main(["--seconds", SECONDS, "--clients", "30", "--server", server]) == 0
    output = capsys.readouterr().out
    assert "lost without a report              0" in output
