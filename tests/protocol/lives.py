"""Random lives of a group, and a judge: the delivery rule against a model of Redis.

`play` runs the real `Track` and `Reading` through any list of steps: publishing, losses of the
link, dropped messages, newcomers, readings that come late or fail, clients that leave and come
back, restarts of Redis with and without loss, wiped databases, messages that are not kept, stored
values that outlive their history or are a foreign program's, and purges. It
raises AssertionError if a client got something twice, out of order, or with a gap that nobody told
it of, or something that is not kept before what it follows on.

Run ``python -m tests.protocol.lives 20000`` to play that many long lives.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from channels_ws4redis.protocol.history import Kept, Lost, Outcome, Reading, Replay
from channels_ws4redis.protocol.messages import UNKEPT, Event, Position, Purge
from channels_ws4redis.protocol.track import Asked, Track

CHANNEL = "broadcast:foo"

#: What can happen without anything being lost for good, if the history is long enough.
TAME = (
    *["publish"] * 4,
    "publish_unstored",
    "publish_unkept",
    *["expire_value", "delete_value", "replace_value"],
    *["receive"] * 5,
    *["catch_up"] * 2,
    *["unlink", "relink", "drop"],
    *["join", "answer", "go_live", "go_live", "fail"],
    *["leave", "come"],
    "wait",
)

#: After these something may be gone that only the next message gives away.
LOSSES = ("flush", "restart", "restart_older", "expire_history", "publish_large", "purge")

STEPS = (*TAME, *LOSSES)

#: Bytes of a payload that takes all of the room in a history.
LARGE = 1000

#: What a foreign program has stored.
FOREIGN = b"foreign"

#: The time in milliseconds, and one that comes later.
NOW, FOR_EVER = 1, 2

#: What newcomers ask for, each in turn.
REPLAYS: tuple[Replay, ...] = ("last", "all", "none", 1, 2)


class State(NamedTuple):
    """Everything that a snapshot of Redis holds."""

    epoch: str = ""
    offset: int = 0
    past: Mapping[str, int] = {}
    #: The history.
    kept: tuple[Kept, ...] = ()
    #: The stored value, and the offset of the message that was stored last.
    value: bytes | None = None
    number: int = 0


class Redis:
    """What the scripts do, in a few lines: one channel, several reigns, payloads that count up."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self.reigns = 1
        self.numberings = 0
        self.wipes = 0
        self.time = 0
        self.state = State()
        self.snapshots = [self.state]
        #: The counts of purges, which have no payload to say it.
        self.purges: dict[Position, int] = {}

    @property
    def blank(self) -> str:
        """The epoch of a channel that nothing has been published to."""
        return f"-r{self.reigns}.{self.wipes}.{self.time}"

    def flush(self) -> None:
        """Lose everything; the empty database is saved at once, so that no restart undoes it."""
        self.wipes += 1
        self.state = State()
        self.snapshots = [self.state]

    def restart(self, lost: int) -> None:
        """Come back as another reign, without the last writes."""
        self.snapshots = self.snapshots[: max(1, len(self.snapshots) - lost)]
        self.state = self.snapshots[-1]
        self.reigns += 1

    def _standing(self) -> tuple[str, int, Mapping[str, int]]:
        epoch, offset, past, *_ = self.state
        numbering, _, reign = epoch.partition(".")
        if epoch and reign != f"r{self.reigns}":
            return f"{numbering}.r{self.reigns}", offset + 1, {epoch: offset, **past}
        return epoch, offset, past

    def _next(self) -> State:
        """Return the state with the next number given, and count what gets it."""
        epoch, offset, past = self._standing()
        state = self.state
        if not epoch:
            self.numberings += 1
            epoch, past = f"n{self.numberings}.r{self.reigns}", {self.blank: 0}
            state = state._replace(kept=(), number=0)
        self.count += 1
        return state._replace(epoch=epoch, offset=offset + 1, past=past)

    def _become(self, state: State) -> None:
        self.state = state
        self.snapshots.append(state)

    def publish(self, kind: str = "publish") -> Event:
        """Publish the next message.

        :param kind: ``publish_unstored`` for one that is not stored for newcomers, or
            ``publish_large`` for one that leaves no room for others in the history.
        """
        state = self._next()
        payload = b"%*d" % (LARGE if kind == "publish_large" else 0, self.count)
        event = Event(CHANNEL, payload, state.epoch, state.offset)
        stored = kind != "publish_unstored"
        kept = [each for each in state.kept if len(each.event.payload) < LARGE]
        kept = [] if kind == "publish_large" else kept
        kept.append(Kept(event, FOR_EVER if stored else 0))
        if stored:
            state = state._replace(value=payload, number=event.offset)
        self._become(state._replace(kept=tuple(kept[-self.size :])))
        return event

    def purge(self) -> Event:
        """Delete what is kept, under the next number."""
        state = self._next()._replace(kept=(), value=None, number=0)
        self._become(state)
        self.purges[Position(state.epoch, state.offset)] = self.count
        return Purge(CHANNEL, state.epoch, state.offset)

    def expire_history(self) -> None:
        """Let the history expire, and the stored value live on."""
        self._become(self.state._replace(kept=()))

    def expire_value(self) -> None:
        """Let the stored value expire, and those of older messages with it."""
        kept = tuple(each._replace(until=0) for each in self.state.kept)
        self._become(self.state._replace(kept=kept, value=None))

    def delete_value(self) -> None:
        """Let a foreign program delete the stored value."""
        self._become(self.state._replace(value=None))

    def replace_value(self) -> None:
        """Let a foreign program store a value."""
        self._become(self.state._replace(value=FOREIGN))

    def publish_unkept(self) -> Event:
        """Publish a message that says which one it follows on."""
        return Event(CHANNEL, b"after %d" % self.count, UNKEPT)

    def read(self) -> Reading:
        """Return what a process reads; nothing is written."""
        epoch, offset, past = self._standing()
        position = Position(epoch or self.blank, offset)
        *_, kept, value, number = self.state
        if not epoch:
            kept, number = (), 0
        kept = tuple(
            Kept(Event(CHANNEL, e.payload, position.epoch, e.offset), until) for e, until in kept
        )
        return Reading.of(CHANNEL, position, past, kept, value, number, NOW)


class Client:
    """Somebody who listens, comes and goes, and writes down what arrives."""

    def __init__(self, redis: Redis | None = None) -> None:
        self._redis = redis or Redis(1)
        #: Numbers of messages, ``"lost"``, ``"from 3"`` where nothing up to 3 is owed, and
        #: ``"after 3"`` for a message that is not kept.
        self.log: list[int | str] = []
        self.live = False
        self.position: Position | None = None
        #: How often a loss was told.
        self.told = 0

    def start(self, reading: Reading, published: int, after: Sequence[Event]) -> None:
        """Take a reading in, and go live.

        :param published: how many messages there had been when it was made. A newcomer is owed
            what came after that; its replay may have gaps.
        """
        if self.position is None:
            for event in reading.replay(REPLAYS[published % len(REPLAYS)]):
                assert event.offset <= reading.position.offset
                if event.payload != FOREIGN:
                    self.log.append("from " + event.payload.decode())
                    self.take(event)
            self.log.append(f"from {published}")
        else:
            for item in reading.since(self.position):
                self.take(item)
        self.position = reading.position
        for event in after:
            self.take(event)
        self.live = True

    def take(self, item: Event | Lost) -> None:
        """Note what has arrived."""
        if isinstance(item, Lost):
            self.log.append("lost")
            self.told += 1
            self.position = item.position
        elif item.epoch == UNKEPT:
            self.log.append(item.payload.decode())
        else:
            self.position = Position(item.epoch, item.offset)
            is_purge = isinstance(item, Purge)
            self.log.append(self._redis.purges[self.position] if is_purge else int(item.payload))

    def judge(self, published: int, ordered: bool = True) -> None:
        """Find what the client got wrongly or was not told."""
        before, owed, told, seen, followed = 0, 0, False, set(), 0
        for entry in [*self.log, published + 1]:
            if entry == "lost":
                told = True
            elif isinstance(entry, str) and entry.startswith("after "):
                followed = max(followed, int(entry.removeprefix("after ")) if ordered else 0)
            elif isinstance(entry, str):
                owed = max(owed, int(entry.removeprefix("from ")))
            else:
                assert entry not in seen, f"{entry} twice in {self.log}"
                assert entry > before, f"{entry} after {before} in {self.log}"
                assert entry > followed, f"{entry} after what follows on it in {self.log}"
                gap = entry - 1 > max(before, owed)
                assert told or not gap, f"a gap from {before} to {entry} in {self.log}"
                seen.add(entry)
                before, told = entry, False


class Waiting:
    """A reading under way: asked for, perhaps made, and not taken in."""

    def __init__(self, asked: Asked, client: Client | None) -> None:
        self.asked = asked
        self.client = client
        self.answer: tuple[Reading, int] | None = None


class Process:
    """A process with clients: a track, a link that loses messages, and readings under way."""

    def __init__(self, redis: Redis, ordered: bool) -> None:
        self.redis = redis
        self.ordered = ordered
        self.track = Track()
        self.clients: list[Client] = []
        self.queue: list[Event] = []
        self.linked = True
        self.readings: list[Waiting] = []

    def join(self) -> None:
        """Let a new client ask for a reading; the answer is taken in by `go_live`."""
        if len(self.clients) < 6:
            self.clients.append(Client(self.redis))
            self._ask(self.clients[-1])

    def _ask(self, client: Client | None) -> None:
        self.readings.append(Waiting(self.track.ask(), client))

    def answer(self) -> None:
        """Let Redis make the oldest reading that it has not made yet."""
        for waiting in self.readings:
            if waiting.answer is None:
                waiting.answer = self.redis.read(), self.redis.count
                break

    def go_live(self) -> None:
        """Take in the oldest reading."""
        if not self.readings:
            return
        if self.readings[0].answer is None:
            self.answer()
        waiting = self.readings[0]
        assert waiting.answer is not None
        reading, published = waiting.answer
        while self.queue and self.track.lag(reading, self.ordered) is not None:
            self.receive()
        self.readings.pop(0)
        live, after = self.track.take(reading, waiting.asked)
        self._deliver(live)
        if waiting.client is None:
            return
        if after is None:
            self._ask(waiting.client)
        else:
            waiting.client.start(reading, published, after)

    def fail(self) -> None:
        """Let the oldest reading fail; whoever waits for it has to come again."""
        if self.readings:
            self.readings.pop(0)
            self.track.give_up()

    def _deliver(self, items: Outcome | list[Event]) -> None:
        for item in items:
            for client in self.clients:
                if client.live:
                    client.take(item)

    def receive(self) -> None:
        """Take the oldest message from the link."""
        if self.queue:
            self._deliver(self.track.receive(self.queue.pop(0)))

    def catch_up(self) -> None:
        """Ask for a reading if something is missing."""
        if self.track.behind and all(waiting.client for waiting in self.readings):
            self._ask(None)

    def unlink(self) -> None:
        """Lose the link."""
        self.linked = False

    def relink(self) -> None:
        """Have the link back, and suspect what there is to suspect."""
        if not self.linked:
            self.linked = True
            self.track.suspect()

    def drop(self) -> None:
        """Lose one message; the layer says so afterwards."""
        if self.queue:
            self.queue.pop()
            self.track.suspect()

    def hear(self, event: Event) -> None:
        """Get a message onto the link, if there is one."""
        if self.linked:
            self.queue.append(event)
            if not self.ordered and len(self.queue) > 1 and self.redis.count % 2:
                self.queue[-2:] = self.queue[:-3:-1]

    def leave(self) -> None:
        """Let the first client go; it remembers where it stands."""
        for client in self.clients:
            if client.live:
                client.live = False
                break

    def come(self) -> None:
        """Let a client that has left come back."""
        asking = [waiting.client for waiting in self.readings]
        for client in self.clients:
            if not client.live and client not in asking:
                self._ask(client)
                break

    def finish(self) -> None:
        """Come to rest: everybody is there, and everything has arrived and been made good."""
        self.relink()
        for _ in self.clients:
            self.come()
        while self.queue or self.track.behind or self.readings:
            self.receive()
            self.catch_up()
            self.go_live()


def play(steps: Sequence[str], size: int, ordered: bool = True) -> int:
    """Play one life with a history of some size and return how often a loss was told.

    :param ordered: the link keeps the order of messages.
    :raises AssertionError: if a client was not told the truth.
    """
    redis = Redis(size)
    process = Process(redis, ordered)
    process.join()
    process.go_live()
    for step in steps:
        match step:
            case "publish" | "publish_unstored" | "publish_large":
                process.hear(redis.publish(step))
            case "publish_unkept" | "purge":
                process.hear(getattr(redis, step)())
            case "expire_history" | "expire_value" | "delete_value" | "replace_value":
                getattr(redis, step)()
            case "flush":
                redis.flush()  # nobody tells a process of it, so the link may stay
            case "wait":
                redis.time += 4
            case "restart" | "restart_older":
                process.unlink()
                redis.restart(2 if step == "restart_older" else 0)
            case _:
                getattr(process, step)()
    process.finish()
    if {"flush", "restart_older"} & set(steps):
        # What was lost at the very end of a history shows with the next message.
        process.hear(redis.publish())
        process.finish()
    for client in process.clients:
        client.judge(redis.count, ordered)
    return sum(client.told for client in process.clients)


def random_life(seed: int) -> tuple[list[str], int, bool]:
    """Return the steps of a long life, the size of its history, and whether order is kept."""
    chance = random.Random(seed)
    steps = chance.choices(STEPS, k=chance.randrange(20, 80))
    if chance.random() < 0.5:  # a database is rarely wiped, so half of all lives are without
        steps = [step for step in steps if step != "flush"]
    return steps, chance.choice([1, 3, 100]), chance.random() < 0.8


def shrink(steps: list[str], size: int, ordered: bool) -> list[str]:
    """Return a shorter life that is judged wrong as well."""
    for length in (8, 4, 2, 1, 1):
        index = 0
        while index < len(steps):
            shorter = steps[:index] + steps[index + length :]
            try:
                play(shorter, size, ordered)
            except AssertionError:
                steps = shorter
            else:
                index += 1
    return steps


def main(lives: int) -> int:
    """Play lives and print those that are judged wrong, shortened."""
    violations = told = 0
    for seed in range(lives):
        steps, size, ordered = random_life(seed)
        try:
            told += play(steps, size, ordered)
        except AssertionError as error:
            violations += 1
            if violations <= 5:
                print(f"seed {seed}: {error}")
                print(f"  play({shrink(steps, size, ordered)!r}, {size}, {ordered})")
    print(f"{lives} lives, {violations} violations, {told} losses told")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
