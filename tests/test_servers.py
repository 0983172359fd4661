"""What is particular to a server is found, changed and put back; sockets are tested elsewhere."""

from __future__ import annotations

import asyncio

import pytest
from channels.sessions import InstanceSessionWrapper
from uvicorn import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from channels_ws4redis.servers import (
    daphne_protocol,
    forget_shutdown,
    spread_shutdown,
    uvicorn_protocol,
)


@pytest.fixture
async def protocol() -> WebSocketsSansIOProtocol:
    """Uvicorn's side of a connection that has not been made yet."""
    config = Config(app="tests.site.asgi:application", timeout_graceful_shutdown=4)
    config.load()
    return WebSocketsSansIOProtocol(config=config, server_state=ServerState(), app_state={})


async def test_a_protocol_is_found_behind_the_session_middleware(protocol) -> None:
    scope = {"type": "websocket", "cookies": {}, "session": {}}
    assert uvicorn_protocol(protocol.send) is protocol
    assert uvicorn_protocol(InstanceSessionWrapper(scope, protocol.send).send) is protocol
    assert daphne_protocol(protocol.send) is None


async def test_other_servers_are_left_alone() -> None:
    async def send(frame: dict) -> None:
        raise AssertionError

    assert uvicorn_protocol(send) is None
    spread_shutdown(send)
    forget_shutdown(send)


async def test_a_socket_that_has_ended_is_not_shut_down_again(protocol, settings) -> None:
    """Nothing of ours stays on the protocol, and a shutdown that is still due does nothing."""
    settings.WS4REDIS_CLOSE_WINDOW = 0
    spread_shutdown(protocol.send)
    problems: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    protocol.shutdown()
    forget_shutdown(protocol.send)
    assert "shutdown" not in vars(protocol)
    await asyncio.sleep(0.01)
    assert problems == []


@pytest.mark.parametrize(("window", "latest"), [(1, 1), (60, 2)])
async def test_the_delay_is_within_the_window_and_half_of_the_servers_patience(
    protocol, settings, monkeypatch, window: int, latest: int
) -> None:
    settings.WS4REDIS_CLOSE_WINDOW = window
    loop = asyncio.get_running_loop()
    delays = []
    monkeypatch.setattr(loop, "call_later", lambda delay, *_: delays.append(delay))
    spread_shutdown(protocol.send)
    for _ in range(500):
        protocol.shutdown()
    assert 0 <= min(delays) < latest / 10
    assert latest * 0.9 < max(delays) <= latest
