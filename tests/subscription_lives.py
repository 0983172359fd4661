"""Random lives of one socket with subscriptions, beside as many sockets of their own.

Whatever happens, a subscription has to get what a socket on its facility gets, message by message::

    PYTHONPATH=testproject python -m tests.subscription_lives 1000 [--seed 1]

plays so many lives against a Redis of its own. What is compared is what a client makes of its
frames, by the rule that the torture test has. The first life that differs ends the run, and is
printed with its steps.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import time
import uuid
from collections import Counter
from typing import Any, NamedTuple

from channels.testing import WebsocketCommunicator

from channels_ws4redis import control
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import application
from tests.communicators import GONE, PATIENCE, ended
from tests.pages import subscribe, unsubscribe
from tests.torture.track import Tracks

#: What may happen, and how often.
STEPS = {
    "publish": 10,
    "send": 5,
    "subscribe": 5,
    "unsubscribe": 3,
    "flicker": 2,
    "revoke": 2,
    "leave the URL's own": 1,
    "away": 2,
    "cut": 1,
}

FACILITIES = "abc"


class Step(NamedTuple):
    """One thing that happens, and what it is chosen by."""

    kind: str
    chance: int


def steps_of(seed: int, length: int) -> list[Step]:
    """Return the steps of a life."""
    dice = random.Random(seed)  # no secret
    kinds = dice.choices(list(STEPS), list(STEPS.values()), k=length)
    return [Step(kind, dice.randrange(2**16)) for kind in kinds]


class Stream:
    """What a client makes of the frames of one facility."""

    def __init__(self) -> None:
        self.tracks = Tracks({})
        #: All that its client has been told, over any number of links.
        self.told: list[tuple[Any, ...]] = []
        self.open = False

    def take(self, frame: dict[str, Any]) -> None:
        """Take a frame of the server."""
        kind = frame["type"]
        if kind in {"ended", "refused"}:
            self.end(frame["code"])
            return
        if kind in {"welcome", "subscribed"}:
            assert not self.open, frame
            self.open = True
            frame = frame | {"type": "welcome"}
        for outcome in self.tracks.received(frame):
            assert outcome.kind != "repeated", frame
            # Whose own message it is differs, see `Life.send`.
            data = outcome.data.removeprefix("page ").removeprefix("twin ")
            self.told.append((outcome.kind, outcome.channel, data, outcome.messages))

    def end(self, code: int) -> None:
        """Take note that the server has ended it."""
        self.open = False
        self.told.append(("ended", code))

    def begin(self) -> dict[str, Any]:
        """Go on over another link; returns the positions to be presented there."""
        self.open = False
        positions = self.tracks.positions
        self.tracks = Tracks(positions)
        return positions

    def reached(self, offset: int) -> bool:
        """Tell whether all has arrived."""
        known = self.tracks.positions.get("broadcast", {"offset": 0})
        return self.open and known["offset"] >= offset


class Link:
    """A socket, whose frames are handed to streams by their ids."""

    def __init__(self, url: str) -> None:
        self.client = WebsocketCommunicator(application, url, subprotocols=[SUBPROTOCOL])
        self.streams: dict[int | None, Stream] = {}
        #: Ids that the client has unsubscribed from.
        self.over: set[int | None] = set()
        self.closed = asyncio.Event()
        self.pongs = 0
        self._reader: asyncio.Task[None] | None = None

    async def open(self, *frames: dict[str, Any]) -> None:
        assert (await self.client.connect(PATIENCE))[0]
        self._reader = asyncio.create_task(self._read())
        await self.send(*frames)

    async def send(self, *frames: dict[str, Any]) -> None:
        await self.client.send_to(text_data=json.dumps(frames))

    async def _read(self) -> None:
        while True:
            event = await self.client.output_queue.get()
            if event["type"] == "websocket.close":
                for stream in self.streams.values():
                    if stream.open:
                        stream.end(event["code"])
                self.closed.set()
                return
            frame = json.loads(event["text"])
            if frame["type"] == "pong":
                self.pongs += 1
            elif frame["type"] != "ping" and frame.get("id") not in self.over:
                self.streams[frame.get("id")].take(frame)

    async def settled(self) -> None:
        """Wait until all that has been sent was taken, and what it led to at once has arrived."""
        before = self.pongs
        await self.send({"type": "ping"})
        await until(lambda: self.pongs > before or self.closed.is_set() or self.broken)

    @property
    def broken(self) -> bool:
        """True if a frame made no sense; the error is raised by `leave`."""
        return self._reader is not None and self._reader.done()

    async def leave(self) -> None:
        await self.client.send_input(GONE)
        await ended(self.client)
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader


class Subscription(NamedTuple):
    """One of the page, and the socket of its own beside it."""

    facility: str
    flags: tuple[str, ...]
    mine: Stream
    twins: Stream


class Life:
    """One life, with facilities that no other life has."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.prefix = uuid.uuid4().hex
        self.published: Counter[str] = Counter()
        #: The subscriptions by id, None for the URL's own.
        self.open: dict[int | None, Subscription] = {}
        self.twins: dict[int | None, Link] = {}
        self.done: list[Subscription] = []
        self.last = 0
        self.page: Link

    # Steps

    async def live(self, steps: list[Step]) -> None:
        self._begin_url()
        await self.connect()
        await self.settle()
        for step in steps:
            names = {"leave the URL's own": self.leave_url}
            method = names.get(step.kind) or getattr(self, step.kind)
            await method(random.Random(step.chance))  # no secret
            await self.settle()
        await self.disconnect()
        for each in [*self.done, *self.open.values()]:
            assert each.mine.told == each.twins.told, (each.mine.told, each.twins.told)

    async def publish(self, dice: random.Random) -> None:
        """Code of the project publishes some messages."""
        for _ in range(dice.randint(1, 3)):
            await self._publish(dice.choice(FACILITIES))

    async def _publish(self, facility: str) -> None:
        self.published[facility] += 1
        publisher = RedisPublisher(facility=self.prefix + facility, broadcast=True)
        await publisher.apublish_message(f"{facility} {self.published[facility]}")

    async def send(self, dice: random.Random) -> None:
        """The client publishes, and so does the one beside it."""
        number = self._any(dice, lambda each: "publish-broadcast" in each.flags)
        if number == 0:
            return
        facility = self.open[number].facility
        data = f"{facility} {self.published[facility] + 1}"
        self.published[facility] += 1
        frame = {"type": "publish", "data": f"page {data}"}
        await self.page.send(frame | ({} if number is None else {"id": number}))
        await self.page.settled()
        self.published[facility] += 1
        await self.twins[number].send({"type": "publish", "data": f"twin {data}"})

    def _any(self, dice: random.Random, suits: Any = lambda each: True) -> int | None:
        """Return the id of one of the subscriptions, 0 if there is none."""
        found: list[int | None] = [number for number, each in self.open.items() if suits(each)]
        return dice.choice(found) if found else 0

    async def subscribe(self, dice: random.Random) -> None:
        """Subscribe to some facilities in one batch."""
        await self._subscribe([self._new(dice) for _ in range(dice.randint(1, 3))])

    def _new(self, dice: random.Random) -> int:
        self.last += 1
        flags = [
            "subscribe-broadcast",
            *(f for f in ("publish-broadcast", "echo") if dice.random() < 0.5),
        ]
        facility = dice.choice(FACILITIES)
        self.open[self.last] = Subscription(facility, tuple(flags), Stream(), Stream())
        return self.last

    async def _subscribe(self, numbers: list[int]) -> None:
        frames = []
        for number in numbers:
            each = self.open[number]
            self.page.streams[number] = each.mine
            more = {"positions": each.mine.begin()}
            frames.append(subscribe(number, self.prefix + each.facility, *each.flags, **more))
        await self.page.send(*frames)
        for number in numbers:
            await self._open_twin(number)

    async def _open_twin(self, number: int | None) -> None:
        each = self.open[number]
        link = Link(f"/ws/{self.prefix}{each.facility}?{'&'.join(each.flags)}")
        self.twins[number] = link
        link.streams[None] = each.twins
        await link.open({"type": "hello", "positions": each.twins.begin()})

    async def unsubscribe(self, dice: random.Random) -> None:
        """Have one of them be over."""
        number = self._any(dice)
        if number != 0:
            self.page.over.add(number)
            await self.page.send(unsubscribe(number or 0))
            await self._over(number)

    async def leave_url(self, dice: random.Random) -> None:
        """Have the URL's own be over; its socket stays."""
        if None in self.open:
            self.page.over.add(None)
            await self.page.send(unsubscribe())
            await self._over(None)

    async def _over(self, number: int | None) -> None:
        each = self.open.pop(number)
        each.mine.open = each.twins.open = False
        self.done.append(each)
        await self.twins.pop(number).leave()

    async def flicker(self, dice: random.Random) -> None:
        """Subscribe, and unsubscribe without waiting for the answer."""
        self.last += 1
        self.page.over.add(self.last)
        frame = subscribe(self.last, self.prefix + dice.choice(FACILITIES))
        if dice.random() < 0.5:
            await self.page.send(frame, unsubscribe(self.last))
            return
        await self.page.send(frame)
        for _ in range(dice.randint(0, 20)):
            await asyncio.sleep(0)
        await self.page.send(unsubscribe(self.last))

    async def revoke(self, dice: random.Random) -> None:
        """Cut off whoever hears one of the facilities."""
        facility, code = dice.choice(FACILITIES), dice.choice([4501, 1013, 4000])
        numbers = [number for number, each in self.open.items() if each.facility == facility]
        canary = Link(f"/ws/{self.prefix}canary")
        canary.streams[None] = Stream()
        await canary.open({"type": "hello"})
        await control.adisconnect(facility=self.prefix + facility, code=code)
        # Orders are carried out one after the other. None may hit who comes later.
        await control.adisconnect(facility=self.prefix + "canary")
        await canary.closed.wait()
        await canary.leave()
        for number in numbers:
            each = self.open[number]
            await until(lambda each=each: not (each.mine.open or each.twins.open))
            await self._over(number)
        if self.page.closed.is_set():
            assert numbers, "closed without a reason"
            assert not self.open, "closed while there are others"
            await self.page.leave()
            self._begin_url()
            await self.connect()

    def _begin_url(self) -> None:
        if None not in self.open:
            flags = ("subscribe-broadcast", "publish-broadcast")
            self.open[None] = Subscription("a", flags, Stream(), Stream())

    async def away(self, dice: random.Random) -> None:
        """Lose all connections, and come back after some messages."""
        await self.disconnect()
        for _ in range(dice.randint(0, 8)):
            await self._publish(dice.choice(FACILITIES))
        self._begin_url()
        # Ids are of one link.
        renumbered = {None: self.open.pop(None)}
        for each in self.open.values():
            self.last += 1
            renumbered[self.last] = each
        self.open = renumbered
        await self.connect()

    async def cut(self, dice: random.Random) -> None:
        """The process loses its link to Redis, and messages are published meanwhile."""
        self.redis.client_kill_filter(_type="pubsub")
        for _ in range(dice.randint(0, 8)):
            await self._publish(dice.choice(FACILITIES))

    # Connections

    async def connect(self) -> None:
        url = self.open[None]
        self.page = Link(f"/ws/{self.prefix}{url.facility}?{'&'.join(url.flags)}")
        self.page.streams[None] = url.mine
        frames = [{"type": "hello", "positions": url.mine.begin()}]
        numbers = [number for number in self.open if number is not None]
        for number in numbers:
            each = self.open[number]
            self.page.streams[number] = each.mine
            more = {"positions": each.mine.begin()}
            frames.append(subscribe(number, self.prefix + each.facility, *each.flags, **more))
        await self.page.open(*frames)
        for link in [None, *numbers]:
            await self._open_twin(link)

    async def disconnect(self) -> None:
        await self.page.leave()
        for link in self.twins.values():
            await link.leave()
        self.twins = {}

    async def settle(self) -> None:
        """Wait until everybody has all that was published."""
        if self.page.closed.is_set():
            return
        await self.page.settled()
        streams = [
            (stream, self.published[each.facility])
            for each in self.open.values()
            for stream in (each.mine, each.twins)
        ]
        links = [self.page, *self.twins.values()]
        await until(
            lambda: (
                all(stream.reached(offset) for stream, offset in streams)
                or any(link.broken for link in links)
            )
        )
        if any(link.broken for link in links):
            await self.disconnect()  # which raises what has broken it
            raise AssertionError("a socket was closed")


async def until(condition: Any) -> None:
    """Wait until something is true of which nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.001)


async def play(redis: Any, steps: list[Step]) -> None:
    """Play one life."""
    await Life(redis).live(steps)


def main() -> None:
    """Play many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lives", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=40)
    options = parser.parse_args()

    async def run(redis: Any) -> None:
        begun = time.monotonic()
        for seed in range(options.seed, options.seed + options.lives):
            steps = steps_of(seed, options.length)
            try:
                await play(redis, steps)
            except BaseException:
                print(f"Life {seed} differs:", *steps, sep="\n  ")
                raise
        seconds = time.monotonic() - begun
        print(f"{options.lives} lives of {options.length} steps, 0 differences, {seconds:.0f} s")

    import django  # noqa: PLC0415 # after the settings are named
    from django.conf import settings  # noqa: PLC0415

    from testproject.embedded import RedisServer  # noqa: PLC0415

    with RedisServer(port=0) as server:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.site.settings")
        os.environ["REDIS_URL"] = server.url
        django.setup()
        settings.WS4REDIS_HISTORY = 5
        settings.WS4REDIS_HANDSHAKE_RATE = None
        settings.WS4REDIS_PUBLISH_RATE = settings.WS4REDIS_FILL_RATE = None
        from redis import Redis  # noqa: PLC0415

        asyncio.run(run(Redis.from_url(server.url)))


if __name__ == "__main__":
    main()
