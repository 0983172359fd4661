"""Whatever a client sends, the server answers with silence, a message or a close code."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import time
import uuid
from itertools import product
from typing import Any

import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels_ws4redis.protocol.client_frames import (
    ProtocolError,
    parse_frames,
    parse_id,
    parse_payload,
    parse_positions,
    parse_subscribe,
)
from channels_ws4redis.protocol.messages import SUBPROTOCOL, Question
from channels_ws4redis.protocol.names import parse_flags
from channels_ws4redis.store.commands import parse_envelope
from tests.clients import Visitor
from tests.fuzz.found import FOUND
from tests.fuzz.strangers import live, make_life
from tests.fuzz.watch import LOGGING, Innocent, errors, memory
from tests.servers import COMMANDS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
POSITION = st.fixed_dictionaries(
    {}, optional={"epoch": st.text() | JSON, "offset": st.integers() | JSON}
)
KINDS = ["hello", "publish", "ping", "pong", "subscribe", "unsubscribe", "x", ""]
FRAME = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | JSON},
    optional={
        "id": st.integers() | JSON,
        "facility": st.text() | JSON,
        "flags": st.lists(st.text()) | JSON,
        "positions": st.dictionaries(st.text() | st.just("broadcast"), POSITION | JSON) | JSON,
        "data": st.text() | JSON,
        "base64": st.text() | st.from_regex(r"[A-Za-z0-9+/]*={0,2}", fullmatch=True) | JSON,
    },
)


@given(st.text() | st.builds(json.dumps, JSON | FRAME | st.lists(FRAME)))
def test_a_frame_is_understood_or_refused(text: str) -> None:
    try:
        frames = parse_frames(text)
    except ProtocolError:
        return
    parsers = parse_payload, parse_id, parse_subscribe, _parse_hello
    for body, parse in product(frames, parsers):
        with contextlib.suppress(ProtocolError):
            parse(body)


def _parse_hello(body: dict[str, Any]) -> None:
    parse_positions(body.get("positions", {}))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '{"type":"hello","positions":[]}', "NaN", ""],
    ids=["deep list", "deep object", "long number", "positions", "nan", "empty"],
)
def test_hostile_json_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_positions(parse_frames(text)[0].get("positions"))


@given(st.binary())
def test_any_query_string_has_flags(query: bytes) -> None:
    flags = parse_flags(query, ["subscribe-broadcast"])
    assert set(flags.known) <= {"subscribe-broadcast"}


@given(st.sampled_from([b"", b"0.0 1 x 0\n", b"? "]), st.binary())
def test_an_envelope_is_read_or_refused(head: bytes, data: bytes) -> None:
    """Only Redis's own script writes them, and whatever it would be, nothing else is raised."""
    try:
        event, _ = parse_envelope("broadcast:foo", head + data)
    except ValueError:
        return
    if isinstance(event, Question):
        assert (head + data).startswith(b"? ")
        return
    assert (head + data).endswith(event.payload)
    assert event.frame(None)


# Through real servers. One socket takes many frames, as a connection is what costs time.


@pytest.fixture(params=["daphne", "uvicorn"])
def target(request: pytest.FixtureRequest, serve):
    """A server."""
    return serve(request.param)


async def still_serves(server) -> None:
    """The server serves others, and has not printed a traceback."""
    async with Visitor(server).socket("/ws/other?subscribe-broadcast&publish-broadcast&echo") as s:
        await s.send("alive")
        assert await s.receive() == "alive"
    assert "Traceback" not in server.log, server.log


FLAGS = "subscribe-broadcast&publish-broadcast&echo"


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text() | st.binary(max_size=2000), min_size=30, max_size=60))
def test_a_raw_client_gets_back_what_it_sent(target, frames: list[str | bytes]) -> None:
    """Byte for byte: text as text, and binary as text if it is UTF-8."""

    async def run() -> None:
        facility = uuid.uuid4().hex  # nothing is stored there
        async with Visitor(target).socket(f"/ws/{facility}?{FLAGS}") as socket:
            for frame in [*frames, "end"]:
                data = frame.encode() if isinstance(frame, str) else frame
                await socket.send(frame)
                if data:
                    answer = await socket.receive()
                    assert (answer.encode() if isinstance(answer, str) else answer) == data
        await still_serves(target)

    asyncio.run(run())


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.builds(json.dumps, FRAME) | st.builds(json.dumps, JSON), min_size=40))
def test_a_client_of_the_protocol_is_answered_or_closed(target, frames: list[str]) -> None:
    async def send(frame: str) -> int | None:
        async with Visitor(target).socket("/ws/v1?" + FLAGS, subprotocols=[SUBPROTOCOL]) as socket:
            try:
                await socket.send(frame)
                await socket.send_json({"type": "ping"})
                while (await socket.receive_json())["type"] != "pong":
                    pass
            except websockets.ConnectionClosed:
                return socket.connection.close_code
            return None

    async def run() -> None:
        for begin in range(0, len(frames), 10):
            codes = await asyncio.gather(*map(send, frames[begin : begin + 10]))
            assert set(codes) <= {None, 4500}
        await still_serves(target)

    asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    [
        "/ws/%00?subscribe-broadcast",
        "/ws/%ff%fe?subscribe-broadcast",
        "/ws/a%0d%0ab?subscribe-broadcast",
        "/ws/" + "x" * 4000 + "?subscribe-broadcast",
        "/ws/?subscribe-broadcast",
        "/ws/%7B%7D%7Bx%7D?subscribe-broadcast",
        "/ws/x?" + "subscribe-broadcast&" * 300,
        "/ws/x?%ff=%00&&&=&subscribe-user=%F0",
        "/ws/%F0%9F%98%80/%3A%25?subscribe-broadcast",
    ],
)
async def test_any_path_is_served_or_refused(site, path: str) -> None:
    status = 101
    try:
        async with Visitor(site).socket(path) as socket:
            await socket.send("x")
    except websockets.InvalidStatus as error:
        status = error.response.status_code
    assert status in (101, 400, 403, 404)
    assert "Traceback" not in site.log, site.log


async def test_a_second_hello_is_refused(site) -> None:
    async with Visitor(site).socket("/ws/x?" + FLAGS, subprotocols=[SUBPROTOCOL]) as socket:
        for _ in range(2):
            await socket.send_json({"type": "hello", "positions": {}})
        assert (await socket.receive_json())["type"] == "welcome"
        assert await socket.close_code() == 4500


async def test_a_client_that_says_nothing_is_closed(site) -> None:
    """After ten seconds, as its events would be held back for ever."""
    async with Visitor(site).socket("/ws/x?" + FLAGS, subprotocols=[SUBPROTOCOL]) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.connection.recv(), 9)
        assert await socket.close_code() == 4002


# Strangers who keep to no rule at all

#: Seconds on each server; WS4REDIS_TEST_FUZZ=150 makes it thorough. A longer run gives the package
#: the machine for itself, and asks more of it.
SECONDS = float(os.environ.get("WS4REDIS_TEST_FUZZ", "3"))
SEED = os.environ.get("WS4REDIS_TEST_FUZZ_SEED", "1")
LONGEST_WAIT = 1.0 if "WS4REDIS_TEST_FUZZ" in os.environ else 10.0

#: Strangers at once, and bytes that all of them together may cost at any time.
STRANGERS = 8
MEMORY = 150e6


@pytest.fixture(params=COMMANDS)
def watched(request: pytest.FixtureRequest, serve):
    """A server whose log tells the level of each line."""
    settings = {"LOGGING": LOGGING, "WS4REDIS_HISTORY": 10, "WS4REDIS_HISTORY_EXPIRE": 10}
    return serve(request.param, settings=settings)


async def meet(server, lives, seconds: float) -> Innocent:
    """Let strangers live out their lives, some at a time, and see that nobody else notices."""
    numbers, end, most = itertools.count(), time.monotonic() + seconds, 0
    before = memory(server)

    async def strangers() -> None:
        while time.monotonic() < end:
            await live(lives(next(numbers)), server.port)

    async with Innocent(server) as innocent:
        running = [asyncio.create_task(strangers()) for _ in range(STRANGERS)]
        while not all(task.done() for task in running):
            await asyncio.wait(running, timeout=0.1)
            most = max(most, memory(server))
            told = f"WS4REDIS_TEST_FUZZ_SEED={SEED}, up to life {numbers}: "
            assert server.process.poll() is None, told + server.log[-5000:]
            assert not innocent.fate, told + innocent.fate
            assert not errors(server.log), told + "\n".join(errors(server.log))
            assert most - before < MEMORY, told + f"{(most - before) / 1e6:.0f} MB"
        await asyncio.gather(*running)
        assert innocent.messages
    print(
        f"{server.kind}: {numbers} lives, {innocent.messages} messages of an innocent client, the "
        f"longest wait {innocent.longest_wait:.2f} s, {(most - before) / 1e6:.0f} MB more at most"
    )
    return innocent


async def test_nobody_notices_what_has_been_found(watched) -> None:
    """Lives that once did harm, or came near to it."""
    lives = list(FOUND.values())
    await meet(watched, lambda number: lives[number % len(lives)], 1)


@pytest.mark.timeout(SECONDS + 180)
async def test_nobody_notices_strangers(watched) -> None:
    """The process lives and stays small, its log has no error, and a message arrives in time."""
    innocent = await meet(watched, lambda number: make_life(f"{SEED}-{number}"), SECONDS)
    assert innocent.longest_wait < LONGEST_WAIT
