"""The attributes and forms of the Python API that legacy code touches."""

from __future__ import annotations

import json
import warnings

import pytest
import redis
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory

from channels_ws4redis import exceptions, models, publisher, wiring
from channels_ws4redis.context_processors import default
from channels_ws4redis.exceptions import WebSocketError
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import SELF, RedisMessage, RedisStore
from channels_ws4redis.routing import router
from channels_ws4redis.store.process import get_client
from channels_ws4redis.subscriber import RedisSubscriber
from testproject.embedded import RedisServer


class LegacyRequest:
    """As much of a request as a publisher looks at."""

    def __init__(self, session=None, user=None) -> None:
        self.session = session
        self.user = user or AnonymousUser()


# Messages


def test_message_is_bytes():
    """A message compares, decodes and loads like the bytes that it is."""
    message = RedisMessage(json.dumps({"a": 1}))
    assert isinstance(message, bytes)
    assert message == b'{"a": 1}'
    assert message.decode() == '{"a": 1}'
    assert json.loads(message) == {"a": 1}
    assert RedisMessage(bytearray(b"x")) == RedisMessage(b"x") == RedisMessage("x") == b"x"
    assert not RedisMessage("")


def test_message_from_redis():
    """A pub/sub reply gives its payload; a confirmation gives None."""
    assert RedisMessage([b"message", b"broadcast:foo", b"payload"]) == b"payload"
    assert RedisMessage([b"subscribe", b"broadcast:foo", 1]) is None


@pytest.mark.parametrize("value", [1, {"a": 1}, 1.5, object(), ["a"], ("a",)])
def test_no_message(value):
    """What legacy silently turned into None raises an error that says what to pass."""
    with pytest.raises(ValueError, match=r"json\.dumps"):
        RedisMessage(value)
    with pytest.raises(ValueError, match=r"json\.dumps"):
        RedisPublisher(facility="foo", broadcast=True).publish_message(value)


@pytest.mark.parametrize("heartbeat", ["--heartbeat--", b"--heartbeat--"])
def test_heartbeat_is_none(settings, heartbeat):
    """The heartbeat gives None, in every form, so that ``if message`` keeps it from being sent."""
    settings.WS4REDIS_HEARTBEAT = heartbeat
    assert RedisMessage("--heartbeat--") is None
    assert RedisMessage(bytearray(b"--heartbeat--")) is None
    assert RedisMessage([b"message", b"broadcast:foo", b"--heartbeat--"]) is None
    assert RedisMessage("-- heartbeat --") == b"-- heartbeat --"
    assert RedisMessage(None) is None


# Attributes


def test_connection(redis_client):
    """``_connection`` is a synchronous client: get, lrange, hincrby and PUBSUB NUMSUB."""
    own = RedisPublisher(facility="foo", broadcast=True)
    own.publish_message("stored")
    connection = own._connection
    assert connection.get("broadcast:foo") == b"stored"
    assert connection.hincrby("online", "foo", 2) == 2
    connection.rpush("list", "a", "b")
    assert connection.lrange("list", 0, -1) == [b"a", b"b"]
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe("broadcast:foo")
        pubsub.get_message(timeout=5)
        assert connection.execute_command("PUBSUB", "NUMSUB", "broadcast:foo") == [
            b"broadcast:foo",
            1,
        ]


def test_pool():
    """``publisher.redis_connection_pool`` is the pool that publishers use."""
    assert publisher.redis_connection_pool is get_client().connection_pool
    client = publisher.StrictRedis(connection_pool=publisher.redis_connection_pool)
    assert type(client) is redis.StrictRedis
    assert client.ping()
    with pytest.raises(AttributeError, match="nonsense"):
        publisher.nonsense  # noqa: B018 # raises


def test_publishers(redis_client):
    """``_publishers`` is a set of names that may be compared, added to, and replaced."""
    own = RedisPublisher(facility="foo", broadcast=True)
    assert own._publishers == {"broadcast:foo"}
    own._publishers.add("broadcast:bar")
    own._publishers.add(b"broadcast:bytes")
    own.publish_message("both")
    for name in ("foo", "bar", "bytes"):
        assert redis_client.get(f"broadcast:{name}") == b"both"
    own._publishers = set()
    own.publish_message("nobody")
    assert redis_client.get("broadcast:foo") == b"both"


def test_prefix_and_expire(settings, redis_client):
    """``get_prefix()`` ends in a colon, and ``_expire`` may be read and set."""
    assert RedisStore.get_prefix() == ""
    settings.WS4REDIS_PREFIX = "demo"
    assert RedisStore.get_prefix() == "demo:"
    own = RedisPublisher(facility="foo", broadcast=True)
    assert own._expire == 3600
    own._expire = 60
    own.publish_message("x")
    assert 50 < redis_client.ttl("demo:broadcast:foo") <= 60


class ShortLived(RedisPublisher):
    """Sets the expire time as a class attribute."""

    _expire = 30


def test_expire_of_a_class(redis_client):
    """``_expire`` may be a class attribute, as it is in legacy."""
    ShortLived(facility="foo", broadcast=True).publish_message("x")
    assert 20 < redis_client.ttl("broadcast:foo") <= 30


class BypassingPublisher(RedisPublisher):
    """Calls the constructor of the base with a connection of its own."""

    def __init__(self, connection, **kwargs):
        RedisStore.__init__(self, connection)
        for key in self._get_message_channels(**kwargs):
            self._publishers.add(key)


def test_own_connection(redis_url, redis_client):
    """A publisher may bring its own connection, which then is what it publishes on."""
    other = redis.Redis.from_url(redis_url.removesuffix("/0") + "/3")
    own = BypassingPublisher(other, facility="foo", broadcast=True)
    assert own._connection is other
    own.publish_message("x")
    assert other.get("broadcast:foo") == b"x"
    assert redis_client.get("broadcast:foo") is None
    other.close()


async def test_own_connection_in_async_code(redis_url, redis_client, caplog):
    """It is what asynchronous code publishes on and fetches from, too; nothing has to be said."""
    other = redis.Redis.from_url(redis_url.removesuffix("/0") + "/3")
    own = BypassingPublisher(other, facility="foo", broadcast=True)
    await own.apublish_message("x")
    assert other.get("broadcast:foo") == b"x"
    assert redis_client.get("broadcast:foo") is None
    assert await own.afetch_message(None, "foo") == b"x"
    assert caplog.text == ""
    other.close()


def test_own_connection_to_another_server(caplog):
    """The message goes there and the log says, once, that the sockets here hear another Redis."""
    with RedisServer(port=0) as server, redis.Redis.from_url(server.url) as other:
        for _ in range(2):
            own = BypassingPublisher(other, facility="foo", broadcast=True)
            own.publish_message("x")
        assert other.get("broadcast:foo") == b"x"
    [line] = caplog.messages
    port = other.connection_pool.connection_kwargs["port"]
    assert line.startswith(f"BypassingPublisher has a client of the Redis at localhost:{port}, but")
    assert "set WS4REDIS_CONNECTION" in line


class Elsewhere(RedisSubscriber):
    """Has a client of another server, on which it would have listened in legacy."""

    def __init__(self, connection):
        super().__init__(redis.Redis(port=1))


async def test_a_subscriber_with_a_connection_to_another_server(settings, caplog):
    """The log says what the socket hears instead."""
    settings.WS4REDIS_SUBSCRIBER = f"{__name__}.Elsewhere"
    socket = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    assert (await socket.connect())[0]
    assert "Elsewhere has a client of the Redis at localhost:1, but the sockets" in caplog.text
    await socket.disconnect()


class ServerStore(RedisStore):
    """A mixin with an audience of its own, whose constructor insists on a connection."""

    def __init__(self, connection):
        super().__init__(connection)
        self.pinged = connection.ping()

    def _get_message_channels(self, server=False, facility="{facility}", **kwargs):
        names = super()._get_message_channels(facility=facility, **kwargs)
        return [*names, f"{self.get_prefix()}server:{facility}"] if server else names


class ServerPublisher(RedisPublisher, ServerStore):
    """A publisher with the mixin's audience."""


class ServerSubscriber(RedisSubscriber, ServerStore):
    """A subscriber with the mixin's audience."""


def test_mixin(redis_client):
    """A mixin may add audience keywords, for publishers and subscribers alike."""
    own = ServerPublisher(facility="foo", server=True, users=["john"])
    assert own.pinged
    assert own._publishers == {"server:foo", "user:john:foo"}
    own.publish_message("x")
    assert redis_client.get("server:foo") == b"x"
    assert ServerSubscriber(get_client())._get_message_channels(server=True, facility="foo") == [
        "server:foo"
    ]
    with pytest.raises(TypeError, match="srever"):
        ServerPublisher(facility="foo", srever=True)


# Deprecated forms


def test_deprecated_forms():
    """Where the intention is clear there is a warning, which points at the caller's line."""
    request = LegacyRequest()
    for keyword, value, names in (
        ("broadcast", 1, {"broadcast:foo"}),
        ("broadcast", 0, set()),
        ("groups", "chatters", {"group:chatters:foo"}),
        ("users", "john", {"user:john:foo"}),
        ("sessions", "key", {"session:key:foo"}),
        ("users", True, set()),
    ):
        with pytest.warns(DeprecationWarning, match="is deprecated; write") as caught:
            own = RedisPublisher(facility="foo", request=request, **{keyword: value})
        assert own._publishers == names
        assert caught[0].filename == __file__


@pytest.mark.parametrize("keyword", ["users", "groups", "sessions"])
def test_true_is_self(keyword, rf_request):
    """True means SELF."""
    with pytest.warns(DeprecationWarning, match=r"write \w+=\[SELF\]"):
        deprecated = RedisPublisher(facility="foo", request=rf_request, **{keyword: True})
    own = RedisPublisher(facility="foo", request=rf_request, **{keyword: [SELF]})
    assert deprecated._publishers == own._publishers != set()


@pytest.fixture
def rf_request():
    """A request of somebody who has logged in."""

    class User:
        is_authenticated = True

        def get_username(self) -> str:
            return "john"

    class Session(dict):
        session_key = "key"

    return LegacyRequest(Session({"ws4redis:memberof": ["chatters"]}), User())


@pytest.mark.parametrize(
    "audience",
    [{"broadcast": "True"}, {"broadcast": 2}, {"users": 7}, {"groups": {"a": 1}}, {"users": b"x"}],
)
def test_unclear_forms(audience):
    """Where the intention is not clear there is an error instead of silence."""
    with pytest.raises(ValueError, match=next(iter(audience))):
        RedisPublisher(facility="foo", **audience)


def test_current_forms_do_not_warn(rf_request):
    """What the manual teaches does not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = RedisPublisher(
            facility="foo", broadcast=True, users=[SELF], groups=["a"], request=rf_request
        )
    assert len(own._publishers) == 3


# Subscribers


def test_subscription():
    """The subscription has the methods of redis-py's PubSub that legacy code uses."""
    subscriber = RedisSubscriber(get_client())
    subscription = subscriber._subscription
    assert not subscription.subscribed
    subscription.subscribe("a", b"b")
    assert subscription.subscribed
    assert [name.split(":") for name in subscription.channels] == [["a"], ["b"]]
    assert [name.decode() for name in subscription.channels] == ["a", "b"]
    subscription.unsubscribe(b"a")
    assert list(subscription.channels) == ["b"]
    subscription.reset()
    assert not subscription.subscribed


def test_stock_methods(redis_client):
    """The stock bodies work when an override calls them."""

    class Socket:
        sent: list[bytes] = []  # noqa: RUF012

        def send(self, message):
            self.sent.append(message)

    request = RequestFactory().get("/ws/foo")
    subscriber = RedisSubscriber(get_client())
    subscriber.set_pubsub_channels(request, ["subscribe-broadcast", "publish-broadcast"])
    assert subscriber._publishers == {"broadcast:foo"}
    subscriber.send_persisted_messages(Socket())
    redis_client.set("broadcast:foo", "stored")
    subscriber.send_persited_messages(Socket())
    assert Socket.sent == [b"stored"]
    subscriber.release()
    assert not subscriber._subscription.subscribed


def test_pubsub_of_redis():
    """A PubSub of redis-py is taken over with its channels; patterns cannot be."""
    subscriber = RedisSubscriber(get_client())
    pubsub = subscriber._connection.pubsub()
    pubsub.subscribe("before")
    subscriber._subscription = pubsub
    assert list(subscriber._subscription.channels) == ["before"]
    pubsub = subscriber._subscription = subscriber._connection.pubsub()
    pubsub.subscribe("after")
    subscriber._subscription.settle()
    assert list(subscriber._subscription.channels) == ["after"]
    pubsub = subscriber._connection.pubsub()
    pubsub.psubscribe("pattern:*")
    with pytest.raises(NotImplementedError, match="by its name"):
        subscriber._subscription = pubsub
    pubsub.close()


def test_replaced_subscription_is_followed():
    """A socket that is open follows a subscription that takes the place of another."""
    subscriber = RedisSubscriber(get_client())
    changes: list[list[str]] = []
    subscriber._subscription.on_change = lambda: changes.append(
        list(subscriber._subscription.channels)
    )
    request = RequestFactory().get("/ws/foo")
    subscriber.set_pubsub_channels(request, ["subscribe-broadcast"])
    subscriber._subscription.subscribe("more")
    subscriber._subscription = None
    assert changes == [["broadcast:foo"], ["broadcast:foo", "more"], []]


# Exceptions, models, templates


def test_exceptions():
    """The exceptions are related as in legacy, so that the same except clauses catch them."""
    assert issubclass(exceptions.WebSocketError, OSError)
    assert issubclass(exceptions.FrameTooLargeException, WebSocketError)
    assert issubclass(exceptions.HandshakeError, ValueError)  # Django's BadHeaderError
    assert issubclass(exceptions.UpgradeRequiredError, exceptions.HandshakeError)


def test_models():
    """The login receiver is found where legacy has it."""
    assert models.store_groups_in_session is wiring.store_groups_in_session


@pytest.mark.parametrize(
    ("heartbeat", "rendered"),
    [
        (None, "null"),
        ("--heartbeat--", '"--heartbeat--"'),
        ('"</script><!--', '"\\"\\u003C/script\\u003E\\u003C!--"'),
        ("é\u2028", '"\\u00e9\\u2028"'),
    ],
)
def test_context_processor(settings, heartbeat, rendered):
    """The context is a plain dict, with the heartbeat as JavaScript that is safe in a script."""
    settings.WS4REDIS_HEARTBEAT = heartbeat
    context = default(RequestFactory().get("/", headers={"host": "testserver:8000"}))
    assert type(context) is dict
    assert context["WEBSOCKET_URI"] == "ws://testserver:8000/ws/"
    assert str(context["WS4REDIS_HEARTBEAT"]) == rendered
    assert hasattr(context["WS4REDIS_HEARTBEAT"], "__html__")
    context["WEBSOCKET_URI"] = context["WEBSOCKET_URI"].replace("ws://", "wss://")
    assert context["WEBSOCKET_URI"].startswith("wss://")


@pytest.mark.parametrize(("told", "scheme"), [("https", "wss"), ("http", "ws")])
def test_scheme_behind_a_proxy(settings, told, scheme):
    """Behind a proxy that ends TLS the scheme is as SECURE_PROXY_SSL_HEADER says."""
    request = RequestFactory().get("/", headers={"host": "testserver", "X-Forwarded-Proto": told})
    assert default(request)["WEBSOCKET_URI"] == "ws://testserver/ws/"
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert default(request)["WEBSOCKET_URI"] == f"{scheme}://testserver/ws/"
