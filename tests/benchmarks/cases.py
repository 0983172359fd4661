"""What is measured with sockets: one run of one contender, and the alternating rounds of a case."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import machine, servers
from tests.benchmarks.contenders import Contender

#: Who waits for a server that writes to a crowd.
WAITING = ("handshake", "page", "message")

Results = dict[str, list[dict[str, Any]]]


class BrokenError(Exception):
    """A run has failed, which is no question of speed."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything a run of the suite does."""

    rounds: int
    fan_out: tuple[int, ...]
    processes: int
    users: int
    #: Users who connect at once, once for each kind of session.
    connects: int
    idle: int
    #: Pages with one subscription, and with ten.
    pages: int
    #: Sockets on one facility, while others want something of the same process.
    crowd: tuple[int, ...]
    recipients: tuple[int, ...]
    seconds: float
    payload_bytes: int = 128
    users_window: int = 32
    #: Messages per second to single users, few enough for every contender but the core layer.
    users_rate: int = 1000
    single_messages: int = 20
    single_pause: float = 0.15
    connecting_at_once: int = 32
    settle: float = 1.0
    #: For which idle sockets are watched. Servers ping theirs every 20 seconds. With that many, a
    #: full collection of Python's garbage takes longer than all these pings, and comes when it
    #: comes: in a short time one more or less is most of the figure.
    rest_seconds: float = 120.0
    #: Handshakes a second of those that are idle afterwards, fewer than any contender can do.
    idle_pace: int = 400
    probe_seconds: float = 8.0


FULL = Sizes(
    rounds=3,
    fan_out=(10, 100, 500, 2000),
    processes=500,
    users=2000,
    connects=1500,
    idle=10_000,
    pages=300,
    crowd=(2000, 10_000),
    recipients=(1, 10, 1000),
    seconds=3.0,
)
#: Everything once, for the exit status; nothing is measured well by so little.
QUICK = Sizes(
    rounds=1,
    fan_out=(100,),
    processes=100,
    users=50,
    connects=50,
    idle=50,
    pages=20,
    crowd=(700,),
    recipients=(1, 100),
    seconds=0.3,
    single_messages=3,
    single_pause=0.05,
    settle=0.1,
    rest_seconds=0.5,
    probe_seconds=0.5,
)


@dataclass
class Bench:
    """What all runs share."""

    folder: Path
    redis: servers.RedisServer
    sizes: Sizes
    cookies: list[str]
    #: The session engine of Django that the cookies are of.
    sessions: str = "signed_cookies"
    #: Why a contender is not measured, by its key.
    missing: dict[str, str] = field(default_factory=dict)

    def environment(self, layer: str, port: int = 0) -> dict[str, str]:
        """Return what servers, publishers and their settings read."""
        return {
            "BENCH_REDIS_URL": self.redis.url,
            "BENCH_DATABASE": str(self.folder / "users.sqlite3"),
            "BENCH_SESSIONS": self.sessions,
            "BENCH_LAYER": layer,
            "BENCH_PORT": str(port),
            "DJANGO_SETTINGS_MODULE": "tests.benchmarks.apps.settings",
            "PYTHONPATH": str(servers.ROOT),
            "PYTHONWARNINGS": "ignore",
        }


def run_once(bench: Bench, contender: Contender, count: int, audience: str) -> dict[str, Any]:
    """Start a contender, put sockets on it, and return what the load generator has measured."""
    sizes = bench.sizes
    port = machine.free_port()
    environment = bench.environment(contender.layer, port)
    sockets: list[tuple[str, str | None]]
    if audience in {"users", "connects"}:
        sockets = [
            (f"/ws/bench?subscribe-user&user=user{i}", bench.cookies[i]) for i in range(count)
        ]
    else:
        sockets = [("/ws/bench?subscribe-broadcast", None)] * count
    feed = [contender.python(), "-m", "tests.benchmarks.feed", contender.feed]
    plan = {
        "port": port,
        "redis_url": bench.redis.url,
        "sockets": sockets,
        "first_sockets": min(10, count),
        "audience": "users" if audience in {"users", "connects"} else "broadcast",
        "feed": [] if audience in {"idle", "connects"} else [*feed, str(sizes.payload_bytes)],
        "environment": environment,
        "seconds": sizes.seconds,
        "window": sizes.users_window if audience == "users" else contender.window,
        "paced_rate": sizes.users_rate if audience == "users" else 0,
        "warm_up": 200 if audience == "users" else 5,
        "single_messages": sizes.single_messages * (10 if audience == "users" else 1),
        "single_pause": sizes.single_pause / (10 if audience == "users" else 1),
        "connecting_at_once": sizes.connecting_at_once,
        "settle": sizes.settle,
        # Servers ping each socket so many seconds after it has come. Pings that come together cost
        # less, so whoever lets sockets in faster would seem to be cheaper at rest.
        "pace": sizes.idle_pace if audience == "idle" else 0,
        "rest": sizes.rest_seconds if audience == "idle" else 0,
        "probe": {
            "seconds": sizes.probe_seconds,
            "path": "/ws/elsewhere?subscribe-broadcast&subscribe-user",
            "cookie": bench.cookies[0] if bench.cookies else None,
        },
    }
    module = "crowd" if audience in {"crowd", "idle"} else "load"
    bench.redis.client().flushdb()  # and not that of the sessions
    log = bench.folder / f"{contender.key}.log"
    command = contender.command(bench.folder, port)
    with servers.running(command, port, environment, log) as server:
        load = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{module}"],
            input=json.dumps(plan | {"server_pid": server.pid}),
            capture_output=True,
            text=True,
            cwd=servers.ROOT,
            check=False,
            timeout=300,
        )
    if load.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        raise BrokenError(f"{contender.label}, {count} sockets:\n{load.stderr[-3000:]}\n{tail}")
    result: dict[str, Any] = json.loads(load.stdout)
    if result["closed"]:
        raise BrokenError(f"{contender.label} has closed {result['closed']} of {count} sockets")
    return result


def alternate(bench: Bench, contenders: Iterable[Contender], count: int, audience: str) -> Results:
    """Run the contenders in turn, several rounds, each round beginning with another one."""
    able = [contender for contender in contenders if count <= contender.most_sockets]

    def run(contender: Contender) -> dict[str, Any]:
        result = run_once(bench, contender, count, audience)
        _tell(contender.label, count, audience, result)
        return result

    return rounds(bench, able, run)


def rounds(
    bench: Bench, contenders: list[Contender], run: Callable[[Contender], dict[str, Any]]
) -> Results:
    """Call ``run`` for each contender that is not missing, in a rotating order."""
    results: Results = {contender.key: [] for contender in contenders}
    for number in range(bench.sizes.rounds):
        start = number % len(contenders)
        for contender in contenders[start:] + contenders[:start]:
            if contender.key not in bench.missing:
                results[contender.key].append(run(contender))
    return results


def connects(bench: Bench, contenders: Iterable[Contender]) -> dict[str, Results]:
    """Have users connect, once for each kind of session: what a crowd costs that comes back."""
    found = {}
    for bench.sessions in ("db", "cached_db", "cache"):
        bench.cookies = accounts(bench)
        print(f"  sessions: {bench.sessions}")
        found[bench.sessions] = alternate(bench, contenders, bench.sizes.connects, "connects")
    return found


def _tell(label: str, count: int, audience: str, result: dict[str, Any]) -> None:
    line = f"  {audience:9} {count:5}  {label:32}"
    if "saturated" in result:
        saturated = result["saturated"]
        line += f"{saturated['server_cpu'] * 1e6:8.1f} µs/delivery {saturated['rate']:9.0f}/s"
        line += f"  (server {saturated['server_share']:.0%}, load {saturated['load_share']:.0%})"
    if "paced" in result:
        paced = result["paced"]
        line += f"  paced {paced['server_cpu'] * 1e6:6.1f} µs at {paced['rate']:4.0f}/s"
    if "busy" in result:
        waits = (f"{kind} {result['busy'][kind]['p99'] * 1e3:.0f}" for kind in WAITING)
        line += f"  {result['busy']['rate']:9.0f}/s  p99 in ms: {', '.join(waits)}"
    if "rest" in result:
        line += f"  at rest {result['rest'] * 1e6:5.1f} µs/s"
    connect = result["connect"]
    line += f"  connect {connect['rate']:6.0f}/s {connect['server_cpu'] * 1e6:6.0f} µs"
    line += f"  {result['bytes_per_socket'] / 1024:6.1f} KiB/socket"
    print(line, flush=True)


def accounts(bench: Bench) -> list[str]:
    """Make the users and their sessions, and return the cookies of these."""
    count = max(bench.sizes.users, bench.sizes.connects)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.accounts", str(count)],
        env={"PATH": "/usr/bin:/bin"} | bench.environment("none"),
        cwd=servers.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BrokenError(done.stderr)
    cookies: list[str] = json.loads(done.stdout)
    return cookies
