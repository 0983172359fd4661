"""One run of the torture test, from starting the processes to the counts."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.client import TortureClient
from tests.torture.faults import FROZEN_FACILITY, FaultInjector
from tests.torture.oracle import Facility, Ledger, Tally, percentile
from tests.torture.processes import (
    PublisherProcess,
    asgi_process,
    redis_process,
)
from tests.torture.proxy import Proxy

#: Facilities besides the one whose clients are frozen.
FACILITIES = 3

#: Clients that are frozen now and then.
SLOW_CLIENTS = 5

#: Seconds between the end of a fault and the next one.
PAUSE = 2.0

#: Seconds after the last message for everybody to be whole.
SETTLING = 20.0


@dataclass(frozen=True)
class Plan:
    """What the run is like."""

    seconds: float
    clients: int
    #: Messages a second for every facility.
    rate: float
    server: str
    redis_server: str
    stock: bool
    seed: int


@dataclass(frozen=True)
class Result:
    """What came out."""

    tally: Tally
    faults: int
    #: Seconds from the end of a fault to the first message after it, per client and fault.
    whole: list[float]

    @property
    def p99(self) -> float:
        """Seconds until 99 percent were whole again."""
        return percentile(self.whole, 99)


class TortureRun:
    """Starts everything, lets it suffer, and counts.

    :param tell: called with a line of text now and then.
    """

    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._facilities = [Facility(f"torture-{index}") for index in range(FACILITIES + 1)]
        self._ledgers: list[Ledger] = []

    async def run(self) -> Result:
        """Run and return the counts."""
        with tempfile.TemporaryDirectory(
            prefix="ws4redis-torture-", ignore_cleanup_errors=True
        ) as name:
            async with contextlib.AsyncExitStack() as stack:
                return await self._run(Path(name), stack)

    async def _run(self, directory: Path, stack: contextlib.AsyncExitStack) -> Result:
        plan = self._plan
        redis_server = redis_process(plan.redis_server, directory)
        stack.push_async_callback(redis_server.stop)
        await redis_server.start()
        proxy = Proxy(redis_server.port)
        stack.push_async_callback(proxy.close)
        await proxy.start()
        server = asgi_process(plan.server, proxy.port, plan.stock, directory / "server.log")
        stack.push_async_callback(server.stop)
        await server.start()
        clients = [self._client(index, server.port) for index in range(plan.clients)]
        tasks = [asyncio.ensure_future(client.run()) for client in clients]
        stack.push_async_callback(_cancel, tasks)
        connected = (client.connected.wait() for client in clients)
        try:
            await asyncio.wait_for(asyncio.gather(*connected), timeout=60)
        except TimeoutError:
            raise RuntimeError(f"The clients cannot connect:\n{server.tail}") from None
        # Straight to Redis: what is published while the server's link is down has to be made good.
        publisher = PublisherProcess(
            redis_server.port, plan.stock, plan.rate, FACILITIES + 1, directory / "publisher.log"
        )
        stack.callback(publisher.kill)
        publishing = asyncio.ensure_future(publisher.run(self._on_sent))
        faults = FaultInjector(
            redis_server, directory, server, proxy, publisher, clients, plan.seed
        )
        count = await self._suffer(faults)
        publisher.finish()
        await publishing
        await self._settle()
        for task in tasks:
            if task.done():
                task.result()  # a client that has given up is a failure of the run
        self._tell("")
        return self._result(count)

    def _client(self, index: int, port: int) -> TortureClient:
        facility = FROZEN_FACILITY if index < SLOW_CLIENTS else 1 + index % FACILITIES
        ledger = Ledger(self._facilities[facility])
        self._ledgers.append(ledger)
        url = f"ws://127.0.0.1:{port}/ws/torture-{facility}?subscribe-broadcast"
        return TortureClient(url, facility, ledger, self._plan.stock)

    def _on_sent(self, facility: int, number: int) -> None:
        times = self._facilities[facility].times
        assert number == len(times) + 1
        times.append(asyncio.get_running_loop().time())

    async def _suffer(self, faults: FaultInjector) -> int:
        clock = asyncio.get_running_loop().time
        end = clock() + self._plan.seconds
        count = 0
        await asyncio.sleep(min(PAUSE, self._plan.seconds))
        while clock() < end:
            name = await faults.inject()
            count += 1
            for ledger in self._ledgers:
                ledger.fault_ended(clock())
            delivered = sum(ledger.delivered for ledger in self._ledgers)
            self._tell(f"{name}; {delivered} messages delivered so far")
            await asyncio.sleep(PAUSE)
        return count

    async def _settle(self) -> None:
        """Wait until everybody has the last message, or nothing more can be expected."""
        for _ in range(int(SETTLING * 10)):
            if all(ledger.complete for ledger in self._ledgers):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # for duplicates

    def _result(self, faults: int) -> Result:
        tally = Tally(published=sum(facility.last for facility in self._facilities))
        for ledger in self._ledgers:
            ledger.close(tally)
        whole = [seconds for ledger in self._ledgers for seconds in ledger.whole]
        return Result(tally, faults, whole)


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
