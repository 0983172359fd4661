"""What the Redis server says it has done, between two moments.

This module also runs under the redis-py of the legacy contender.
"""

from __future__ import annotations

from typing import Any

#: Commands of this suite itself, which are left out of every count.
_OWN = {"cmdstat_info", "cmdstat_client", "cmdstat_config", "cmdstat_flushall"}


def snapshot(client: Any) -> dict[str, float]:
    """Return the server's running totals."""
    stats = client.info("stats")
    commands = client.info("commandstats")
    cpu = client.info("cpu")
    ours = {name: row for name, row in commands.items() if name not in _OWN}
    return {
        "cpu": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        # Commands inside a script count twice, in the script's time too: compare, do not add up.
        "command_seconds": sum(row["usec"] for row in ours.values()) / 1e6,
        "commands": sum(row["calls"] for row in ours.values()),
        "bytes_in": stats["total_net_input_bytes"],
        "bytes_out": stats["total_net_output_bytes"],
        "connections": stats["total_connections_received"],
    }


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return how much each total has grown."""
    return {name: after[name] - before[name] for name in before}


def own_cost(client: Any) -> dict[str, float]:
    """Return what taking a snapshot itself adds to the totals."""
    first = snapshot(client)
    return difference(first, snapshot(client))
