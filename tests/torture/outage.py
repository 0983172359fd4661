"""One long outage with the settings that a project has which sets none.

Run as ``python -m tests.torture.outage`` it cuts a server off from its Redis while messages go on,
and drops every other client, which cannot come back before the server can. Then it counts what each
client has got. It fails if a client got less than the history has, or was not told what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.client import TortureClient
from tests.torture.oracle import Facility, Ledger, Tally
from tests.torture.processes import (
    DEFAULT_SITE,
    PublisherProcess,
    asgi_process,
    find_redis_server,
    redis_process,
)
from tests.torture.proxy import Proxy

#: Seconds of messages before the outage, and for everybody to be whole after it.
BEFORE, SETTLING = 2.0, 60.0

#: Messages of a channel that are kept by default for those who come back.
HISTORY = 100


@dataclass(frozen=True)
class Plan:
    """What the run is like."""

    seconds: float
    clients: int
    facilities: int
    #: Messages a second for every facility.
    rate: float
    server: str


@dataclass(frozen=True)
class Result:
    """What came out."""

    tally: Tally
    #: Messages that were published during the outage, on the facility that had most.
    missed: int
    #: Messages within the bounds of the history that a client has not got.
    not_recovered: int


class Outage:
    """Starts everything, cuts the link, and counts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._facilities = [Facility(f"torture-{index}") for index in range(plan.facilities)]
        self._clients: list[TortureClient] = []

    async def run(self) -> Result:
        """Run and return the counts."""
        with tempfile.TemporaryDirectory(
            prefix="ws4redis-outage-", ignore_cleanup_errors=True
        ) as name:
            async with contextlib.AsyncExitStack() as stack:
                return await self._run(Path(name), stack)

    async def _run(self, directory: Path, stack: contextlib.AsyncExitStack) -> Result:
        plan = self._plan
        binary = find_redis_server()
        assert binary is not None
        redis_server = redis_process(binary, directory)
        stack.push_async_callback(redis_server.stop)
        await redis_server.start()
        proxy = Proxy(redis_server.port)
        stack.push_async_callback(proxy.close)
        await proxy.start()
        log = directory / "server.log"
        server = asgi_process(plan.server, proxy.port, False, log, DEFAULT_SITE)
        stack.push_async_callback(server.stop)
        await server.start()
        self._clients = [self._client(index, server.port) for index in range(plan.clients)]
        tasks = [asyncio.ensure_future(client.run()) for client in self._clients]
        stack.push_async_callback(_cancel, tasks)
        await asyncio.wait_for(self._everybody_is_there(), timeout=60)
        publisher = PublisherProcess(
            redis_server.port,
            False,
            plan.rate,
            plan.facilities,
            directory / "publisher.log",
            DEFAULT_SITE,
        )
        stack.callback(publisher.kill)
        publishing = asyncio.ensure_future(publisher.run(self._on_sent))
        await asyncio.sleep(BEFORE)
        before = [facility.last for facility in self._facilities]
        await proxy.cut()
        for client in self._clients[::2]:
            client.drop()
        await asyncio.sleep(plan.seconds)
        publisher.finish()
        await publishing
        await proxy.start()
        await self._settle()
        return self._result(before)

    def _client(self, index: int, port: int) -> TortureClient:
        # Of two in a row one is dropped, so that each facility has clients of both kinds.
        facility = index // 2 % self._plan.facilities
        url = f"ws://127.0.0.1:{port}/ws/torture-{facility}?subscribe-broadcast"
        return TortureClient(url, facility, Ledger(self._facilities[facility]), stock=False)

    async def _everybody_is_there(self) -> None:
        await asyncio.gather(*(client.connected.wait() for client in self._clients))

    def _on_sent(self, facility: int, number: int) -> None:
        self._facilities[facility].times.append(asyncio.get_running_loop().time())

    async def _settle(self) -> None:
        """Wait until everybody has the last message, or nothing more can be expected."""
        for _ in range(int(SETTLING * 10)):
            if all(client.ledger.complete for client in self._clients):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # for duplicates

    def _result(self, before: Sequence[int]) -> Result:
        tally = Tally(published=sum(facility.last for facility in self._facilities))
        not_recovered = 0
        for client in self._clients:
            last = client.ledger.facility.last
            not_recovered += client.ledger.missing_of(range(max(1, last - HISTORY + 1), last + 1))
            client.ledger.close(tally)
        gone = zip(self._facilities, before, strict=True)
        missed = max(facility.last - count for facility, count in gone)
        return Result(tally, missed, not_recovered)


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (%(default)s)")
    parser.add_argument("--clients", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--facilities", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument(
        "--rate", type=float, default=25, help="messages a second and facility (%(default)s)"
    )
    parser.add_argument("--server", choices=("daphne", "uvicorn"), default="daphne")
    return Plan(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the outage and return the exit code of the process."""
    result = asyncio.run(Outage(_plan(arguments)).run())
    tally = result.tally
    for label, value in (
        ("published", tally.published),
        ("missed, on each facility", result.missed),
        ("delivered", tally.delivered),
        ("recovered on reconnect", tally.recovered),
        ("lost and reported", tally.reported_lost),
        ("kept and not recovered", result.not_recovered),
        ("lost without a report", tally.lost_unreported),
    ):
        print(f"{label:26}{value:>10}")
    if tally.violated or result.not_recovered:
        print("Somebody was not told the truth, or got too little.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
