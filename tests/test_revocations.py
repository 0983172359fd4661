"""A shortened run of the torture test that counts what sockets get and may not hear any more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.servers import ROOT

#: WS4REDIS_TEST_TORTURE=120 makes it thorough.
SECONDS = os.environ.get("WS4REDIS_TEST_TORTURE", "20")


@pytest.mark.server
def test_nothing_is_heard_that_may_not_be() -> None:
    """With daphne and uvicorn, while links are cut and servers frozen."""
    command = [sys.executable, "-m", "tests.torture.revoke", "--seconds", SECONDS]
    timeout = float(SECONDS) + 120
    run = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert run.returncode == 0, run.stdout + run.stderr
