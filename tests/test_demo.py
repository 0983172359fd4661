"""The command behind ``make demo``, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from websockets.sync.client import connect

from testproject.embedded import RedisServer, find_free_port
from tests.servers import ROOT

pytestmark = pytest.mark.server

COMMAND = [sys.executable, str(ROOT / "testproject" / "manage.py"), "demo"]


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis that the test may end."""
    with RedisServer(port=0) as server:
        yield server


@contextlib.contextmanager
def killing(process: subprocess.Popen[str]) -> Iterator[IO[str]]:
    """Give what a process writes; the process does not outlive a test that fails."""
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_ends_without_a_complaint_of_the_feed(redis_server: RedisServer, tmp_path: Path, how):
    """Nobody is told that numbers are missing when the demo and its Redis end together."""
    port = find_free_port()
    environment = os.environ | {
        "REDIS_URL": redis_server.url,
        "WS4REDIS_TEST_DATABASE": str(tmp_path / "db.sqlite3"),
    }
    demo = subprocess.Popen(
        [*COMMAND, "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with killing(demo) as output:
        next(line for line in output if "Ctrl-C" in line)
        address = f"ws://127.0.0.1:{port}/ws/dashboard?subscribe-broadcast"
        # The server takes its time to close this socket.
        with connect(address, proxy=None) as socket:
            next(message for message in socket if "visitors" in message)
            demo.send_signal(how)
            redis_server.stop()
            said = output.read()
        assert demo.wait(10) == 0
    assert "no numbers" not in said
    assert said.endswith("The demo has ended.\n")
