"""What is done to the processes, one fault after the other."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio

from tests.torture.client import TortureClient
from tests.torture.processes import Process, PublisherProcess
from tests.torture.proxy import Proxy

#: The facility whose few clients are frozen; its number.
FROZEN_FACILITY = 0


class FaultInjector:
    """Knows all faults; each is a method that returns when the fault is over."""

    def __init__(
        self,
        redis_server: Process,
        redis_directory: Path,
        server: Process,
        proxy: Proxy,
        publisher: PublisherProcess,
        clients: list[TortureClient],
        seed: int,
    ) -> None:
        self._redis = redis_server
        self._redis_directory = redis_directory
        self._server = server
        self._proxy = proxy
        self._publisher = publisher
        self._clients = clients
        self._random = random.Random(seed)  # no secret
        self._faults: dict[str, Callable[[], Awaitable[None]]] = {
            "Redis restarted": self._restart_redis,
            "Redis killed and restarted": self._kill_redis,
            "Redis restarted empty": self._empty_redis,
            "Redis frozen for 2 s": self._freeze_redis,
            "history flushed": self._flush,
            "scripts flushed": self._flush_scripts,
            "link to Redis cut for 2 s": self._cut_link,
            "link to Redis dropped": self._drop_link,
            "link to Redis silent for 4 s": self._silence_link,
            "server restarted": self._restart_server,
            "server killed and restarted": self._kill_server,
            "server frozen for 2 s": self._freeze_server,
            "a third of the clients dropped": self._drop_clients,
            "slow clients": self._freeze_clients,
        }
        self._due: list[str] = []

    async def inject(self) -> str:
        """Do the next thing and return its name; all come up before any comes up again."""
        if not self._due:
            self._due = self._random.sample(list(self._faults), len(self._faults))
        name = self._due.pop()
        await self._faults[name]()
        return name

    async def _restart_redis(self) -> None:
        await self._redis.restart()

    async def _kill_redis(self) -> None:
        await self._redis.stop(signal.SIGKILL)
        await asyncio.sleep(1)
        await self._redis.start()

    async def _empty_redis(self) -> None:
        await self._redis.stop(signal.SIGKILL)
        shutil.rmtree(self._redis_directory / "appendonlydir", ignore_errors=True)
        (self._redis_directory / "appendonly.aof").unlink(missing_ok=True)  # Redis before 7
        await self._redis.start()

    async def _freeze_redis(self) -> None:
        await self._freeze(self._redis)

    async def _freeze_server(self) -> None:
        await self._freeze(self._server)

    async def _freeze(self, process: Process) -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(2)
        finally:
            process.send_signal(signal.SIGCONT)

    async def _flush(self) -> None:
        await self._tell_redis("FLUSHALL")

    async def _flush_scripts(self) -> None:
        await self._tell_redis("SCRIPT", "FLUSH")

    async def _tell_redis(self, *command: str) -> None:
        client = redis.asyncio.Redis(host="127.0.0.1", port=self._redis.port)
        try:
            await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py
        finally:
            await client.aclose()

    async def _cut_link(self) -> None:
        await self._proxy.cut()
        await asyncio.sleep(2)
        await self._proxy.start()

    async def _drop_link(self) -> None:
        self._proxy.drop()

    async def _silence_link(self) -> None:
        self._proxy.silence()
        await asyncio.sleep(4)
        self._proxy.resume()

    async def _restart_server(self) -> None:
        await self._server.restart()

    async def _kill_server(self) -> None:
        await self._server.restart(signal.SIGKILL)

    async def _drop_clients(self) -> None:
        for client in self._random.sample(self._clients, len(self._clients) // 3):
            client.drop()

    async def _freeze_clients(self) -> None:
        slow = [client for client in self._clients if client.facility == FROZEN_FACILITY]
        for client in slow:
            client.thawed.clear()
        self._publisher.burst(FROZEN_FACILITY)
        await asyncio.sleep(3)
        for client in slow:
            client.thawed.set()
