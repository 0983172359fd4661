"""What becomes of a publish that Redis does not take."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
import redis

from channels_ws4redis.handshake.refusals import LINES
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.subscriber import RedisSubscriber
from tests.silent import frozen_server

#: Where it is told that a message is not published.
LOGGER = "channels_ws4redis.publish.failing"

pytestmark = pytest.mark.server

Publish = Callable[..., Awaitable[None]]


@pytest.fixture(params=["sync", "async"])
def publish(request) -> Publish:
    """Both ways to publish to everybody, as a coroutine function."""

    async def call(*args, **kwargs) -> None:
        publisher = RedisPublisher(facility="foo", broadcast=True)
        if request.param == "sync":
            publisher.publish_message(*args, **kwargs)
        else:
            await publisher.apublish_message(*args, **kwargs)

    return call


@pytest.fixture(params=["refuses", "hangs", "is full"])
def no_redis(request, settings, free_port: int, redis_client: redis.Redis) -> Iterator[str]:
    """A Redis that takes no message, and a word of the error."""
    if request.param == "refuses":
        settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
        yield str(free_port)
    elif request.param == "hangs":
        with frozen_server() as port:
            settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{port}?socket_timeout=0.2"
            yield "Timeout"
    else:
        RedisPublisher(facility="foo", broadcast=True).publish_message("there was room")
        redis_client.config_set("maxmemory", 1)
        yield "OutOfMemory"
        redis_client.config_set("maxmemory", 0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log has of messages that are not published."""
    found = (record for record in caplog.records if record.name == LOGGER)
    return [record.getMessage() for record in found]


async def test_an_error_is_raised(no_redis, publish, caplog):
    """Unless a project says otherwise, whoever publishes decides what to do about it."""
    with pytest.raises(redis.exceptions.RedisError):
        await publish("Hello")
    assert lines(caplog) == []


async def test_an_error_is_logged(no_redis, settings, publish, caplog):
    """A project may say so; the line names the channel and the cause, and has no traceback."""
    settings.WS4REDIS_ON_ERROR = "log"
    await publish("Hello")
    (line,) = lines(caplog)
    assert line.startswith("The message on 'broadcast:foo' is not published: ")
    assert no_redis in line
    assert "Traceback" not in caplog.text


async def test_an_outage_is_told_in_few_lines(settings, free_port, publish, caplog):
    """A project that publishes a thousand messages a second can still read its log."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    settings.WS4REDIS_ON_ERROR = "log"
    for _ in range(2 * LINES):
        await publish("Hello")
    assert len(lines(caplog)) == LINES


async def test_a_mistake_is_raised(settings, publish):
    """It is the caller's, and Redis has nothing to do with it."""
    settings.WS4REDIS_ON_ERROR = "log"
    with pytest.raises(ValueError, match="pass str or bytes"):
        await publish(7)
    with pytest.raises(ValueError, match="expire=-1"):
        await publish("x", -1)
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher._connection = "no client"
    with pytest.raises(TypeError, match="has no connection pool of redis-py"):
        await publisher.apublish_message("x")


async def test_what_a_client_sends_is_not_lost_without_a_word(settings, free_port, caplog):
    """The subscriber of a socket raises, which closes the socket; its client comes back."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    settings.WS4REDIS_ON_ERROR = "log"
    subscriber = RedisSubscriber()
    subscriber._publishers = {"broadcast:foo"}
    with pytest.raises(redis.exceptions.ConnectionError):
        subscriber.publish_message("Hello")
    with pytest.raises(redis.exceptions.ConnectionError):
        await subscriber.apublish_message("Hello")
    assert lines(caplog) == []


async def test_what_the_log_has_is_an_error(settings, free_port, publish, caplog):
    """A message that is lost is worth a look."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    settings.WS4REDIS_ON_ERROR = "log"
    await publish("Hello")
    levels = {each.levelno for each in caplog.records if each.name == LOGGER}
    assert levels == {logging.ERROR}
