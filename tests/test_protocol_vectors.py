"""The stories of tests/js/vectors.json, told by a real server and heard by the torture client.

The browser client is given the frames in that file and tested for what it makes of them. Here the
client of the torture test is given the same frames, and has to make the same of them. Then the same
positions are presented to a server with the same history, which has to send the same frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.protocol.client_frames import parse_frames, parse_positions
from channels_ws4redis.protocol.messages import SUBPROTOCOL, Event, Position
from channels_ws4redis.publisher import RedisPublisher
from tests.clients import Visitor
from tests.outboxes import open_outbox
from tests.servers import ROOT
from tests.torture.track import Tracks

_FILE = json.loads((ROOT / "tests" / "js" / "vectors.json").read_text())
VECTORS = {vector["name"]: vector for vector in _FILE["stories"]}

#: Stories of several subscriptions on a link.
SUBSCRIPTIONS = _FILE["subscriptions"]

#: What a client has to bear although this server does not do it, and why it does not.
NOT_TOLD = {
    "a channel that never had a message has a position too": "its empty histories have an epoch "
    "of their own",
    "a stored message that was delivered before is not delivered again": "it leaves that out",
    "a stored message older than its place does not take the position back": "its stored messages "
    "are the newest of its history, or an older one alone",
    "a channel of which the server keeps no positions": "it always does",
    "a channel of which the server no longer keeps positions is lost": "it always does",
    "a new epoch that nobody announced is taken as it comes": "it announces them",
    "a new epoch amid the stored messages ends them": "it reads the history again first",
    "a recovery may end with messages that are not for this client": "it keeps no sender of a "
    "socket that has gone",
}

#: Those in which something is lost on a live link, which needs a fault that comes at that moment.
LIVE_LOSSES = {
    name
    for name, vector in VECTORS.items()
    if any(frame["type"] == "lost" for frame in vector["frames"])
}

#: The keys of this server's frames; those of newer ones are in the vectors too.
KEYS = {
    "welcome": {"type", "heartbeat", "subscriptions", "channels"},
    "subscribed": {"type", "id", "channels"},
    "refused": {"type", "id", "code", "reason"},
    "ended": {"type", "id", "code", "reason"},
    "message": {"type", "channel", "epoch", "offset", "data"},
    "position": {"type", "channel", "epoch", "offset"},
    "lost": {"type", "channel", "epoch", "offset"},
    "purged": {"type", "channel", "epoch", "offset"},
    "ping": {"type"},
    "pong": {"type"},
}
CHANNEL_KEYS = {"epoch", "offset", "recovered", "replay"}

AUDIENCES: dict[str, dict[str, Any]] = {
    "broadcast": {"broadcast": True},
    "user": {"users": ["john"]},
    "group:staff": {"groups": ["staff"]},
}
NAMES = {
    "broadcast": "broadcast:story",
    "user": "user:john:story",
    "group:staff": "group:staff:story",
}
FLAGS = ["subscribe-broadcast", "subscribe-user", "subscribe-group", "publish-broadcast"]
PATH = "/ws/story?" + "&".join(FLAGS)

TOLD = sorted(VECTORS.keys() - NOT_TOLD.keys() - LIVE_LOSSES)


def test_all_vectors_are_accounted_for():
    """Each story is told below, or there is a reason why not."""
    assert NOT_TOLD.keys() <= VECTORS.keys()
    assert len(TOLD) >= 28


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_positions(vector):
    """The server understands every position that the client presents or keeps."""
    expect = vector["expect"]
    for positions in (vector["positions"], *expect["hellos"], expect["positions"]):
        [hello] = parse_frames(json.dumps({"type": "hello", "positions": positions}))
        parsed = parse_positions(hello["positions"])
        assert {label: position._asdict() for label, position in parsed.items()} == positions


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_the_torture_client(vector):
    """The client that judges the server follows the same rule as the one in the browser."""
    tracks = Tracks(vector["positions"])
    hellos = []
    outcomes = []
    for frame in vector["frames"]:
        if frame["type"] == "welcome":
            hellos.append(tracks.positions)
        outcomes += tracks.received(frame)
    assert vector["expect"] == {
        "hellos": hellos,
        "delivered": [
            {"channel": outcome.channel, "data": outcome.data}
            for outcome in outcomes
            if outcome.kind == "message"
        ],
        "lost": [outcome.channel for outcome in outcomes if outcome.kind == "lost"],
        "recovered": [
            {"channel": outcome.channel, "messages": outcome.messages}
            for outcome in outcomes
            if outcome.kind == "recovered"
        ],
        "positions": tracks.positions,
    }


def test_a_message_that_comes_twice_does_not_pass_unnoticed():
    """The browser's client drops it without a word; the torture client counts it."""
    tracks = Tracks({"broadcast": {"epoch": "a", "offset": 5}})
    message = {"type": "message", "channel": "broadcast", "epoch": "a", "offset": 5, "data": "a5"}
    [outcome] = tracks.received(message)
    assert outcome.kind == "repeated"


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_frames(vector):
    """The server's own frames have the shape that the client is tested with."""
    for frame in vector["frames"]:
        known = {key: value for key, value in frame.items() if key in KEYS.get(frame["type"], ())}
        if frame["type"] == "message":
            position = frame.get("epoch", ""), frame.get("offset", 0)
            event = Event("any", frame["data"].encode(), *position)
            assert json.loads(event.frame(frame["channel"]).data) == known
        elif frame["type"] in {"position", "lost"}:
            assert told(frame["type"], frame["channel"], frame["epoch"], frame["offset"]) == known
        else:
            assert frame["type"] in {"welcome", "ping", "pong", "news"}


def told(kind: str, label: str, epoch: str, offset: int) -> dict[str, Any]:
    """Return what a recipient tells about a position."""
    frames: list[Any] = []

    async def send(frame: Any) -> None:
        frames.append(frame)

    socket = Socket(open_outbox(send, 1, 1000, pytest.fail), False, {"any": label})
    socket._send_position(kind, "any", Position(epoch, offset))
    [frame] = frames
    body: dict[str, Any] = json.loads(frame["text"])
    return body


class Story:
    """A history on a real server that is brought to where a vector has it."""

    def __init__(self, redis_client) -> None:
        self.redis = redis_client
        #: The server's epochs, by label and the vector's name of it.
        self.epochs: dict[tuple[str, str], str] = {}
        self.reached: dict[str, tuple[str, int]] = {}

    async def publish(self, label: str, epoch: str, data: str, stored: bool = True) -> None:
        publisher = RedisPublisher(facility="story", **AUDIENCES[label])
        await asyncio.to_thread(publisher.publish_message, data, 60 if stored else 0)
        name = NAMES[label]
        if not stored:
            last = self.redis.hget(f"{{{name}}}:meta", "offset").decode()
            self.redis.xdel(f"{{{name}}}:history", f"{last}-0")
        real = self.redis.hget(f"{{{name}}}:meta", "epoch").decode()
        assert self.epochs.setdefault((label, epoch), real) == real
        self.reached[label] = epoch, self.reached.get(label, (epoch, 0))[1] + 1

    async def bring(self, label: str, told: dict[str, Any], known: dict, live: dict) -> None:
        """Publish up to the top that a welcome tells.

        :param known: the position that the client presents.
        :param live: by offset, the messages that arrive after the welcome.
        """
        epoch, top = told["epoch"], told["offset"]
        name = NAMES[label]
        if self.reached.get(label, (epoch, 0))[0] != epoch:
            self.redis.delete(name, f"{{{name}}}:history", f"{{{name}}}:meta")
            del self.reached[label]
        stored = {offset for offset in live if offset <= top}
        if told["recovered"]:
            stored |= set(range(known["offset"] + 1, top + 1))
        for offset in range(top, 0, -1):
            if len(stored) < told["replay"]:
                stored.add(offset)
        for offset in range(self.reached.get(label, (epoch, 0))[1] + 1, top + 1):
            data = live.get(offset, f"{epoch}{offset}")
            await self.publish(label, epoch, data, offset in stored)

    def real(self, positions: dict[str, Any]) -> dict[str, Any]:
        """Return positions with the server's epochs."""
        return {
            label: position | {"epoch": self.epochs.get((label, position["epoch"]), "gone")}
            for label, position in positions.items()
        }

    def told(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Return a frame of the server with the vector's epochs and heartbeat."""
        names = {(label, real): epoch for (label, epoch), real in self.epochs.items()}
        if frame["type"] == "welcome":
            channels = {
                label: channel | {"epoch": names.get((label, channel["epoch"]), "new")}
                for label, channel in frame["channels"].items()
            }
            return frame | {"heartbeat": 4, "channels": channels}
        if "epoch" in frame:
            return frame | {"epoch": names[frame["channel"], frame["epoch"]]}
        return frame


def links(vector: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Split the frames of a story by the link that they came over.

    What this server does not send, that is repetitions and what is unknown, is left out.
    """
    split: list[list[dict[str, Any]]] = []
    seen: dict[str, int] = {}
    for frame in vector["frames"]:
        if frame["type"] == "welcome":
            split.append([])
            seen = {}
        if "offset" in frame:
            if frame["offset"] <= seen.get(frame["channel"], -1):
                continue
            seen[frame["channel"]] = frame["offset"]
        if frame["type"] in KEYS and frame["type"] != "ping":
            known = {key: value for key, value in frame.items() if key in KEYS[frame["type"]]}
            if "channels" in known:
                known["channels"] = {
                    label: {key: channel[key] for key in CHANNEL_KEYS}
                    for label, channel in known["channels"].items()
                }
            split[-1].append(known)
    return split


class Teller:
    """Asks a server for its side of a story, over a subscription of its URL or a further one."""

    def __init__(self, socket: Any, number: int) -> None:
        self.socket = socket
        self.id = {"id": number} if number else {}

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, john: Any, number: int, positions: Any) -> AsyncIterator[Any]:
        """Present positions; yields the answer too, as a ``welcome`` has it."""
        path = "/ws/other" if number else PATH
        async with john.socket(path, subprotocols=[SUBPROTOCOL]) as socket:
            teller = cls(socket, number)
            hello = {"type": "hello", "positions": {} if number else positions}
            subscribe = {"type": "subscribe", "facility": "story", "flags": FLAGS, **teller.id}
            subscribe["positions"] = positions
            await socket.send_json([hello, subscribe] if number else hello)
            welcome = await socket.receive_json()
            welcome.pop("subscriptions")
            if number:
                welcome = {**await teller.receive(), "type": "welcome", "heartbeat": 20.0}
            yield teller, welcome

    async def publish(self, data: str) -> None:
        await self.socket.send_json({"type": "publish", "data": data, **self.id})

    async def receive(self) -> dict[str, Any]:
        """Return the next frame, without its id, which must be right."""
        frame: dict[str, Any] = await self.socket.receive_json()
        if frame["type"] != "ping":
            assert {"id": frame.pop("id")} == self.id if self.id else "id" not in frame
        return frame


@pytest.mark.parametrize("number", [0, 3], ids=["url", "further"])
@pytest.mark.parametrize("name", TOLD)
async def test_story(serve, redis_client, name, number):
    """With the same history and the same positions the server sends the same frames."""
    john = Visitor(serve(settings={"WS4REDIS_REPLAY": "all"})).login("john")
    vector = VECTORS[name]
    story = Story(redis_client)
    await john.arequest("/test/session", {"ws4redis:memberof": ["staff"]})
    for expected, hello in zip(links(vector), vector["expect"]["hellos"], strict=True):
        welcome, *rest = expected
        for label, told in welcome["channels"].items():
            messages = {
                frame["offset"]: frame["data"]
                for frame in rest
                if frame["channel"] == label and "offset" in frame and "data" in frame
            }
            await story.bring(label, told, hello.get(label, {}), messages)
        async with Teller.of(john, number, story.real(hello)) as (teller, got):
            story.epochs |= {
                (label, told["epoch"]): got["channels"][label]["epoch"]
                for label, told in welcome["channels"].items()
            }
            received = [story.told(got)]
            # The socket listens on all channels, also on those that the story says nothing about.
            received[0]["channels"] = {
                label: received[0]["channels"][label] for label in welcome["channels"]
            }
            tops = {label: told["offset"] for label, told in welcome["channels"].items()}
            for frame in rest:
                if "offset" not in frame:
                    redis_client.publish(NAMES[frame["channel"]], frame["data"])
                elif frame["type"] == "position":
                    await teller.publish("its own")
                    story.reached[frame["channel"]] = frame["epoch"], frame["offset"]
                    moved = await teller.receive()
                    story.epochs.setdefault((frame["channel"], frame["epoch"]), moved["epoch"])
                    received.append(story.told(moved))
                elif frame["offset"] > tops[frame["channel"]]:
                    await story.publish(frame["channel"], frame["epoch"], frame["data"])
            while len(received) < len(expected):
                frame = story.told(await teller.receive())
                if frame["type"] != "ping":
                    received.append(frame)
        assert received[0] == expected[0]
        for label in welcome["channels"]:
            assert [frame for frame in received[1:] if frame["channel"] == label] == [
                frame for frame in rest if frame["channel"] == label
            ]


async def test_own_messages_move_the_position(john, settings):
    """Without `echo` a socket is told where its own message went, and gets it after a cut link."""
    publisher = RedisPublisher(facility="story", broadcast=True)
    await asyncio.to_thread(publisher.publish_message, "not stored", 0)
    async with john.socket(PATH, subprotocols=[SUBPROTOCOL]) as socket:
        await socket.send_json({"type": "hello", "positions": {}})
        epoch = (await socket.receive_json())["channels"]["broadcast"]["epoch"]
        await socket.send_json({"type": "publish", "data": "mine"})
        got = await socket.receive_json()
        assert got == told("position", "broadcast", got["epoch"], 2)
        assert got["epoch"] == epoch
        await socket.send_json({"type": "ping"})
        assert await socket.receive_json() == {"type": "pong"}
    position = {key: got[key] for key in ("epoch", "offset")}
    async with john.socket(PATH, subprotocols=[SUBPROTOCOL]) as socket:
        await socket.send_json({"type": "hello", "positions": {"broadcast": position}})
        welcome = await socket.receive_json()
        assert welcome["channels"]["broadcast"] == position | {"recovered": True, "replay": 0}
