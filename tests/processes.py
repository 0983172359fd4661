"""What the system knows of the processes of a server, and of their connections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path

#: Seconds for something that comes true by itself.
PATIENCE = 30


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that comes true by itself."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Return the processes that serve for a parent, without those that only help it."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    helper = b"resource_tracker"
    return [int(each) for each in found if helper not in Path(f"/proc/{each}/cmdline").read_bytes()]


def connections(pid: int, *, near: Collection[int] = (), far: Collection[int] = ()) -> int:
    """Count the TCP connections of a process by their ports: its own, or those at the other end."""
    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in this moment
            links.add(str(entry.readlink()))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(
        state == "01"  # established
        and f"socket:[{inode}]" in links
        and (int(local[-4:], 16) in near or int(remote[-4:], 16) in far)
        for _, local, remote, state, _, _, _, _, _, inode, *_ in rows
    )
