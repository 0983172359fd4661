"""The load generator: one process that holds all sockets and times what arrives on them.

It reads a plan as JSON from standard input and prints what it has measured as JSON. Its sockets are
picows', compiled, so that one core of it outruns the servers; it reports its own processor time
too, so that the reader sees when that is not so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import redis
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tests.benchmarks import machine, redis_work

_STALL = 4.0


class Tally:
    """Counts which messages have arrived on how many sockets, and how long they took."""

    def __init__(self) -> None:
        self.missing: dict[int, int] = {}
        self.received = 0
        self.surplus = 0
        self.latencies: list[int] | None = None
        self.last_arrival = 0.0
        self.changed = asyncio.Event()

    def expect(self, sequence: int, deliveries: int) -> None:
        """Note that a message has been asked for."""
        self.missing[sequence] = deliveries

    def arrived(self, payload: bytes) -> None:
        """Note that one socket has received a message."""
        sequence = int(payload[21:29])
        left = self.missing.get(sequence)
        if left is None:
            self.surplus += 1
            return
        self.received += 1
        if self.latencies is not None:
            self.latencies.append(time.monotonic_ns() - int(payload[:20]))
        if left > 1:
            self.missing[sequence] = left - 1
        else:
            del self.missing[sequence]
            self.changed.set()

    def give_up(self) -> int:
        """Forget the messages under way, and return how many deliveries they lack."""
        lost = sum(self.missing.values())
        self.missing.clear()
        return lost


class Listener(WSListener):
    """One socket."""

    def __init__(self, tally: Tally, closed: list[int]) -> None:
        self.tally = tally
        self.closed = closed

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Count text; anything that is too short to be a message is a heartbeat."""
        if frame.msg_type == WSMsgType.TEXT and frame.payload_size > 29:
            self.tally.arrived(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Note a socket that has gone."""
        self.closed.append(1)


class Load:
    """One contender's run."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.tally = Tally()
        self.closed: list[int] = []
        self.transports: list[WSTransport] = []
        self.sequence = 0
        self.targets: dict[int, str] = {}
        self.random = random.Random(7)
        self.redis = redis.Redis.from_url(plan["redis_url"])

    async def run(self) -> dict[str, Any]:
        """Connect, warm up, measure."""
        plan = self.plan
        # A first few sockets make the server import and cache what it needs for any.
        await self.connect(plan["sockets"][: plan["first_sockets"]])
        await self.disconnect()
        resident = machine.resident_bytes(plan["server_pid"])
        result: dict[str, Any] = {"connect": await self.connect_all()}
        await asyncio.sleep(plan["settle"])
        grown = machine.resident_bytes(plan["server_pid"]) - resident
        result["bytes_per_socket"] = grown / len(plan["sockets"])
        result |= await self.measure()
        return result | {"closed": len(self.closed), "surplus": self.tally.surplus}

    async def measure(self) -> dict[str, Any]:
        """Return what the sockets, which are open now, are there for."""
        result: dict[str, Any] = {}
        if self.plan["feed"]:
            async with self.feeding():
                await self.warm_up()
                result["saturated"] = await self.saturate()
                if self.plan["paced_rate"]:
                    result["paced"] = await self.pace()
                result["single"] = await self.single()
        return result

    @contextlib.asynccontextmanager
    async def feeding(self) -> AsyncIterator[None]:
        """Run the publishing process until the end of the block."""
        self.feeder = await asyncio.create_subprocess_exec(
            *self.plan["feed"],
            stdin=asyncio.subprocess.PIPE,
            env=os.environ | self.plan["environment"],
        )
        try:
            yield
        finally:
            assert self.feeder.stdin is not None
            self.feeder.stdin.close()
            await self.feeder.wait()

    async def connect(self, sockets: list[list[Any]]) -> list[float]:
        """Open the sockets, some at a time, and return how long each took."""
        gate = asyncio.Semaphore(self.plan["connecting_at_once"])
        port = self.plan["port"]
        headers = {"Origin": f"http://127.0.0.1:{port}"}

        start, pace = time.perf_counter(), self.plan["pace"]

        async def open_one(number: int, path: str, cookie: str | None) -> float:
            if pace:
                await asyncio.sleep(start + number / pace - time.perf_counter())
            async with gate:
                began = time.perf_counter()
                transport, _ = await ws_connect(
                    lambda: Listener(self.tally, self.closed),
                    f"ws://127.0.0.1:{port}{path}",
                    extra_headers=headers | ({"Cookie": cookie} if cookie else {}),
                    websocket_handshake_timeout=60,
                )
                self.transports.append(transport)
                return time.perf_counter() - began

        return await asyncio.gather(*(open_one(n, *socket) for n, socket in enumerate(sockets)))

    async def connect_all(self) -> dict[str, Any]:
        """Open all sockets and return what that cost."""
        before = self._totals()
        durations = sorted(await self.connect(self.plan["sockets"]))
        cost = self._cost(before)
        count = len(durations)
        return {
            "rate": count / cost["elapsed"],
            "server_cpu": cost["server_cpu"] / count,
            "p50": durations[count // 2],
            "p99": durations[int(count * 0.99)],
            "redis_commands": cost["redis"]["commands"] / count,
            "redis_connections": cost["redis"]["connections"],
        }

    async def disconnect(self) -> None:
        """Close all sockets."""
        for transport in self.transports:
            transport.send_close()
            transport.disconnect()
        await asyncio.gather(*(transport.wait_disconnected() for transport in self.transports))
        self.transports.clear()
        self.closed.clear()
        await asyncio.sleep(0.2)

    def ask(self) -> None:
        """Ask the publishing process for the next message."""
        self.sequence += 1
        if self.plan["audience"] == "broadcast":
            target, deliveries = "-", len(self.plan["sockets"])
        else:
            # Not one that still has a message on its way: see the legacy contender's window.
            busy = {self.targets.get(sequence) for sequence in self.tally.missing}
            target = next(user for user in self.random_users() if user not in busy)
            self.targets[self.sequence] = target
            deliveries = 1
        self.tally.expect(self.sequence, deliveries)
        self.feeder.stdin.write(f"{self.sequence} {target}\n".encode())  # type: ignore[union-attr]

    def random_users(self) -> Iterator[str]:
        """Return numbers of users without end."""
        while True:
            yield str(self.random.randrange(len(self.plan["sockets"])))

    async def wait_for(self, outstanding: int) -> int:
        """Wait until at most so many messages are on their way; return the deliveries given up."""
        tally = self.tally
        while len(tally.missing) > outstanding:
            received = tally.received
            tally.changed.clear()
            try:
                await asyncio.wait_for(tally.changed.wait(), _STALL)
            except TimeoutError:
                if tally.received == received:
                    return tally.give_up()
        return 0

    async def warm_up(self) -> None:
        """Publish until a whole round of messages arrives everywhere."""
        for _ in range(20):
            for _ in range(self.plan["warm_up"]):
                self.ask()
                lost = await self.wait_for(0)
                if lost:
                    break
            else:
                self.tally.surplus = 0
                return
        raise RuntimeError("messages do not arrive on all sockets")

    async def saturate(self) -> dict[str, Any]:
        """Keep a number of messages on their way for some time: rate and cost of a delivery."""
        before, received, lost = self._totals(), self.tally.received, 0
        deadline = time.monotonic() + self.plan["seconds"]
        sent = self.sequence
        while time.monotonic() < deadline:
            while len(self.tally.missing) < self.plan["window"]:
                self.ask()
            lost += await self.wait_for(self.plan["window"] - 1)
        lost += await self.wait_for(0)
        cost = self._cost(before)
        deliveries = self.tally.received - received
        return {
            "deliveries": deliveries,
            "messages": self.sequence - sent,
            "lost": lost,
            "rate": deliveries / cost["elapsed"],
            "server_cpu": cost["server_cpu"] / deliveries,
            "server_share": cost["server_cpu"] / cost["elapsed"],
            "load_share": cost["load_cpu"] / cost["elapsed"],
        }

    async def pace(self) -> dict[str, Any]:
        """Ask for a fixed number of messages per second: the cost of a delivery at equal load."""
        before, received = self._totals(), self.tally.received
        rate, began = self.plan["paced_rate"], time.monotonic()
        total = int(rate * self.plan["seconds"])
        lost = 0
        for number in range(total):
            delay = began + number / rate - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            self.ask()
            # Who cannot keep up is not drowned; its figures are those of a saturated server.
            lost += await self.wait_for(self.plan["window"] - 1)
        lost += await self.wait_for(0)
        cost = self._cost(before)
        deliveries = self.tally.received - received
        return {
            "lost": lost,
            "rate": deliveries / cost["elapsed"],
            "server_cpu": cost["server_cpu"] / deliveries,
        }

    async def single(self) -> dict[str, Any]:
        """Send one message at a time: latency, and what Redis does for each."""
        await asyncio.sleep(0.3)
        own = redis_work.own_cost(self.redis)
        self.tally.latencies = []
        before, lost, messages = self._totals(), 0, self.plan["single_messages"]
        for _ in range(messages):
            began = time.monotonic()
            self.ask()
            lost += await self.wait_for(0)
            await asyncio.sleep(max(0.0, self.plan["single_pause"] - (time.monotonic() - began)))
        cost = self._cost(before)
        latencies = sorted(self.tally.latencies)
        self.tally.latencies = None
        work = {name: cost["redis"][name] - own[name] for name in cost["redis"]}
        return {
            "lost": lost,
            "server_cpu": cost["server_cpu"] / len(latencies),
            "p50": latencies[len(latencies) // 2] / 1e9,
            "p99": latencies[int(len(latencies) * 0.99)] / 1e9,
            "redis_seconds": work["command_seconds"] / messages,
            "redis_bytes": (work["bytes_in"] + work["bytes_out"]) / messages,
            "redis_commands": work["commands"] / messages,
        }

    def _totals(self) -> dict[str, Any]:
        return {
            "redis": redis_work.snapshot(self.redis),
            "server_cpu": machine.cpu_seconds(self.plan["server_pid"]),
            "load_cpu": time.process_time(),
            "elapsed": time.perf_counter(),
        }

    def _cost(self, before: dict[str, Any]) -> dict[str, Any]:
        elapsed = time.perf_counter() - before["elapsed"]
        server = machine.cpu_seconds(self.plan["server_pid"]) - before["server_cpu"]
        return {
            "elapsed": elapsed,
            "server_cpu": server,
            "load_cpu": time.process_time() - before["load_cpu"],
            "redis": redis_work.difference(before["redis"], redis_work.snapshot(self.redis)),
        }


def main() -> None:
    """Carry out the plan."""
    machine.raise_file_limit()
    load = Load(json.load(sys.stdin))
    json.dump(uvloop.run(load.run()), sys.stdout)


if __name__ == "__main__":
    main()
