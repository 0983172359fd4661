"""Shortened runs of the torture mode that counts pages which do not show what the database has."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.server

#: WS4REDIS_TEST_TORTURE=120 makes it thorough.
SECONDS = os.environ.get("WS4REDIS_TEST_TORTURE", "20")


def torture(*arguments: str) -> tuple[int, dict[str, int]]:
    """Return the exit code of a run, and its counts."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.torture.pages", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=float(SECONDS) + 120,
    )
    found = re.findall(r"^([a-z ]+?) +(\d+)$", run.stdout, re.MULTILINE)
    assert found, run.stderr
    return run.returncode, {label: int(count) for label, count in found}


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_each_page_is_whole(server: str) -> None:
    """Through cuts of the link, and restarts of Redis."""
    code, counts = torture("--seconds", SECONDS, "--server", server)
    assert code == 0, counts
    assert counts["faults"] > 3
    assert counts["told lost"] > 0


#: Nothing fails, and no row changes twice. Each page waits for a change between reading and
#: rendering, so that one with a late stamp misses it for good.
SCENARIO = ("--no-faults", "--seconds", "2", "--pages", "5")


def test_a_late_stamp_is_found() -> None:
    """Not one page is whole, and the run fails."""
    code, counts = torture(*SCENARIO, "--late")
    assert code == 1
    assert (counts["not whole"], counts["behind"]) == (5, 0)


def test_a_stamp_in_time_is_not() -> None:
    """Under the same conditions all pages are whole."""
    code, counts = torture(*SCENARIO)
    assert code == 0
    assert (counts["not whole"], counts["behind"], counts["told lost"]) == (0, 0, 0)
