"""A user of Redis with few rights: what works without them, and what a refusal costs whom."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
import redis
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator

from channels_ws4redis.protocol.history import Lost, is_blank
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router
from channels_ws4redis.store import runner
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.readings import parse_reading, read_command
from testproject.embedded import RedisServer
from tests import communicators
from tests.communicators import PATIENCE
from tests.listeners import all_left
from tests.servers import ROOT
from tests.workers import until, worker

pytestmark = [pytest.mark.server, pytest.mark.django_db]

FOO = "ws:broadcast:foo"


@pytest.fixture
def server(settings):
    """A Redis with its data on disk, and a user app who has no rights yet."""
    with RedisServer(port=0, appendonly=True, options={"appendfsync": "always"}) as server:
        settings.WS4REDIS_CONNECTION = server.url.replace("://", "://app:p@")
        settings.WS4REDIS_PREFIX = "ws"
        backend = "channels_ws4redis.layers.RedisChannelLayer"
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
        channel_layers.backends.clear()
        yield server
        channel_layers.backends.clear()


@pytest.fixture
def allow(server):
    """Give the user rights in place of those that it had; return a client that may do anything."""
    admin = redis.Redis.from_url(server.url)

    def give(rule: str) -> redis.Redis:
        admin.execute_command(f"ACL SETUSER app reset on >p {rule}")
        return admin

    yield give
    admin.close()


def client_of(path: str, user: str = "") -> WebsocketCommunicator:
    """Return a client in this process, which has not connected yet."""
    client = WebsocketCommunicator(router, path)
    if user:
        identity = SimpleNamespace(is_authenticated=True, get_username=lambda: user)
        client.scope.update(session=None, user=identity)
    return client


async def publish(text: str, **audience) -> None:
    """Publish as a view does."""
    publisher = RedisPublisher(facility="foo", **(audience or {"broadcast": True}))
    await asyncio.to_thread(publisher.publish_message, text)


async def next_text(client: WebsocketCommunicator) -> str:
    """Return the next message of a client."""
    return (await client.receive_output(PATIENCE))["text"]


async def leave(client: WebsocketCommunicator) -> None:
    """Let a client go, and wait until its socket has ended."""
    await communicators.leave(client)
    await all_left()


HARDENED = "~* &* +@all -@dangerous"
NAMED = (
    "~ws:* ~{ws:* &ws:broadcast:* &{ws:broadcast:* &ws:ws4redis:control &{ws:ws4redis:control}* "
    "+@all"
)


@pytest.mark.parametrize("rule", [HARDENED, NAMED, f"{NAMED} -info -ping -unsubscribe"])
async def test_what_is_stored_and_live_arrives(allow, rule, caplog):
    """Without INFO and other commands that are called dangerous, and for some channels only."""
    allow(rule)
    await publish("stored")
    client = client_of("/ws/foo?subscribe-broadcast")
    assert (await client.connect(PATIENCE))[0]
    await publish("live")
    assert [await next_text(client) for _ in range(2)] == ["stored", "live"]
    await leave(client)
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


async def test_a_link_that_may_not_ping_is_not_given_up(allow, monkeypatch):
    """Redis answers that it does not answer, which is a sign of life."""
    monkeypatch.setattr("channels_ws4redis.store.links.SILENCE", 0.2)
    admin = allow(f"{NAMED} -ping")
    client = client_of("/ws/foo?subscribe-broadcast")
    assert (await client.connect(PATIENCE))[0]
    before = admin.info("stats")["total_connections_received"]
    await asyncio.sleep(1.2)
    assert admin.info("stats")["total_connections_received"] == before
    await publish("live")
    assert await next_text(client) == "live"
    await leave(client)


async def test_a_refused_channel_refuses_its_socket_only(allow, caplog):
    """With 1013 and one line, that names the channel, the user of Redis and the remedy."""
    admin = allow(NAMED)
    first = client_of("/ws/foo?subscribe-broadcast")
    assert (await first.connect(PATIENCE))[0]
    before = admin.info("stats")["total_connections_received"]
    for path in ("/ws/foo?subscribe-user", "/ws/foo?subscribe-user&subscribe-broadcast"):
        second = client_of(path, "ann")
        assert (await second.connect(PATIENCE))[0]
        assert await second.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
        await leave(second)
        (line,) = caplog.messages
        assert line == (
            "Cannot open the socket '/ws/foo': NoPermissionError: Redis's user 'app' may not "
            "subscribe to '{ws:user:ann:foo}:events'; its ACL needs +subscribe, and & with a "
            f"pattern for that name ({line.rpartition('(')[2]}"
        )
        caplog.clear()
    await publish("live")
    assert await next_text(first) == "live"
    assert admin.info("stats")["total_connections_received"] - before <= 1  # for the publish
    await leave(first)
    async with asyncio.timeout(PATIENCE):
        while admin.pubsub_channels("*foo*"):  # noqa: ASYNC110 # Redis tells nobody
            await asyncio.sleep(0.01)


async def test_a_channel_that_is_refused_from_now_on(allow, caplog):
    """The sockets that have it end with 1013, and the others live on."""
    allow("~* &* +@all")
    first = client_of("/ws/foo?subscribe-broadcast")
    second = client_of("/ws/foo?subscribe-user", "ann")
    for client in (first, second):
        assert (await client.connect(PATIENCE))[0]
    admin = allow(NAMED)
    admin.execute_command("CLIENT KILL TYPE pubsub")
    assert await second.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
    await leave(second)
    lines = [line for line in caplog.messages if "Closing the socket" in line]
    assert len(lines) == 1
    assert "NoPermissionError: Redis's user 'app' may not subscribe to" in lines[0]
    await publish("live")
    assert await next_text(first) == "live"
    await leave(first)


async def test_other_consumers_of_the_layer(allow, caplog):
    """Whoever joins a refused group is told; of one that is refused later the log tells."""
    allow("~* &* +@all")
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("chat", channel)
    allow("~* resetchannels &asgi.channel:* &asgi.group:news +@all")
    async with asyncio.timeout(PATIENCE):
        while "gets no more messages" not in caplog.text:  # noqa: ASYNC110 # nothing else tells
            await asyncio.sleep(0.01)  # Redis has cut the link, and it is made anew
    with pytest.raises(redis.exceptions.NoPermissionError, match=r"'app' .* 'asgi\.group:other'"):
        await layer.group_add("other", channel)
    await layer.group_add("news", channel)
    await layer.group_send("news", {"type": "hello"})
    async with asyncio.timeout(PATIENCE):
        assert await layer.receive(channel) == {"type": "hello"}
    (line,) = [line for line in caplog.messages if "gets no more messages" in line]
    assert line.startswith(f"Channel {channel} gets no more messages: Redis's user 'app' may not")
    assert "'asgi.group:chat'" in line
    with pytest.raises(redis.exceptions.NoPermissionError, match="'app' may not use the"):
        await layer.group_send("chat", {"type": "hello"})
    await layer.flush()


async def test_a_client_that_may_not_publish(allow, caplog):
    """Its socket is closed with 1011, and the log says what Redis's user lacks."""
    allow("~* resetchannels &* +@all -publish")
    client = client_of("/ws/foo?publish-broadcast")
    assert (await client.connect(PATIENCE))[0]
    await client.send_to(text_data="mine")
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1011}
    await leave(client)
    (line,) = caplog.messages
    assert "NoPermissionError: Redis's user 'app' may not publish to 'ws:broadcast:foo'" in line
    assert "the page on Redis lists" in line


@pytest.mark.parametrize("command", ["get", "hmget", "xrange", "exists", "time", "evalsha"])
async def test_what_may_not_be_read_does_not_count_as_absent(allow, caplog, command):
    """A socket that would be shown less than there is, or hear nothing, is refused."""
    allow("~* &* +@all")
    await publish("stored", **({"users": ["eve"]} if command == "exists" else {}))
    other = client_of("/ws/bar?subscribe-broadcast")  # with it the process hears what it has to
    assert (await other.connect(PATIENCE))[0]
    allow(f"~* &* +@all -{command}")
    client = client_of("/ws/foo?subscribe-broadcast")
    assert (await client.connect(PATIENCE))[0]
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
    await leave(client)
    (line,) = caplog.messages
    assert "Redis's user 'app' may not read what is stored of 'ws:broadcast:foo'" in line
    await leave(other)


async def test_nobody_is_let_in_whom_nobody_could_cut_off(allow, caplog):
    """If the package's own channel is refused, every socket is, and the log names that channel."""
    for rule in (f"{NAMED} resetchannels &ws:broadcast:* &{{ws:broadcast:*", f"{NAMED} -get"):
        allow(rule)
        client = client_of("/ws/foo?subscribe-broadcast")
        assert (await client.connect(PATIENCE))[0]
        assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
        await leave(client)
        assert "Cannot open the socket '/ws/foo': NoPermissionError" in caplog.messages[-1]
        assert "ws:ws4redis:control" in caplog.messages[-1]


# Without INFO


def read():
    """Read all that is kept of the channel."""
    (reply,) = runner.run(get_client(), [read_command(FOO)])
    return parse_reading(FOO, reply)


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_restart_is_noticed_without_info(server, allow, how):
    """One number is skipped, as with INFO, so that no number is given twice."""
    allow(HARDENED)
    await publish("one")
    await publish("two")
    before = read().position
    assert before.offset == 2
    if how == "kill":
        server.kill()
        server.start()
    else:
        server.restart()
    allow(HARDENED)
    await publish("four")
    lost, message = read().since(before)
    assert isinstance(lost, Lost)
    assert lost.position.offset == 3
    assert (message.payload, message.offset) == (b"four", 4)
    assert message.epoch != before.epoch


async def test_a_first_message_follows_on_nothing_without_info(allow):
    """Whoever has waited for it is told of no loss."""
    allow(HARDENED)
    blank = read().position
    assert is_blank(blank)
    assert read().since(blank) == []
    await publish("first")
    assert [event.payload for event in read().since(blank)] == [b"first"]


# Workers


async def test_workers_by_the_rule_of_the_manual(allow, settings):
    """`runworker` receives, also of groups, and answers; nothing that it asks for is refused."""
    page = (ROOT / "docs" / "howto" / "redis.md").read_text()
    (rule,) = re.findall(r"^user mysite on >secret (.*)$", page, re.MULTILINE)
    admin = allow(rule)
    settings.WS4REDIS_PREFIX = "mysite"
    layer = get_channel_layer()
    reply = await layer.new_channel()
    await layer.group_add("all", "prints")
    message = {"type": "generate", "reply": reply}
    with worker(settings.WS4REDIS_CONNECTION, "thumbnails", "prints"):
        # Before there is a worker, and once it waits.
        for number in range(2):
            await layer.send("thumbnails", message | {"number": number})
            await layer.group_send("all", message | {"number": number})
            async with asyncio.timeout(PATIENCE):
                answers = [await layer.receive(reply) for _ in range(2)]
            assert [answer["number"] for answer in answers] == [number, number]
            await until(lambda: all(count == 1 for _, count in waiting(admin)))
    await layer.flush()
    # redis-py tells its own name, and goes on if it may not.
    assert {entry["object"] for entry in admin.acl_log()} <= {"client|setinfo"}


def waiting(admin: redis.Redis) -> list[tuple[bytes, int]]:
    """Return how many processes wait for a message on each of the named channels."""
    return admin.pubsub_numsub("asgi.queue:thumbnails", "asgi.queue:prints")
