"""What the operating system knows: processor time and memory of processes, limits, free ports."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from pathlib import Path


def process_tree(root: int) -> list[int]:
    """Return the process and all its living descendants."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found.extend(int(child) for child in children.read_text().split())
            except OSError:
                continue  # the thread or the process has ended while we looked
    return found


def cpu_seconds(root: int) -> float:
    """Return the user and system time that the process tree has used so far."""
    total = 0.0
    for pid in process_tree(root):
        # The clock of another process, see clock_getcpuclockid(3). /proc counts in ticks of 10 ms.
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def resident_bytes(root: int) -> int:
    """Return the resident memory of the process tree."""
    total = 0
    for pid in process_tree(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def raise_file_limit() -> int:
    """Allow as many open files as the hard limit gives, and return that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """Return a loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    """Tell whether something listens on the loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def processor_name() -> str:
    """Return the name of the processor and the number of cores that we may use."""
    name = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
