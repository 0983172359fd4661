"""Messages, and the base of publishers and subscribers: names, expire times, stored bytes."""

from __future__ import annotations

import pickle
import types
import warnings
from uuid import UUID

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.signed_cookies import SessionStore
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.facilities import facility
from channels_ws4redis.publish.addressing import own_identities
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import SELF, RedisMessage, RedisStore
from channels_ws4redis.store.clients import make_client
from channels_ws4redis.store.process import get_client


def request(user=None, session=None):
    """Return as much of a request as names an audience."""
    return types.SimpleNamespace(user=user, session=session)


def names(**kwargs):
    """Return the names that a publisher publishes to."""
    return RedisPublisher(**kwargs)._publishers


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, set()),
        ({"broadcast": True}, {"broadcast:foo"}),
        ({"broadcast": False}, set()),
        ({"broadcast": None}, set()),
        ({"users": ["john", "mary"]}, {"user:john:foo", "user:mary:foo"}),
        ({"users": None, "groups": None, "sessions": None}, set()),
        ({"groups": ["a:b"]}, {"group:a%3Ab:foo"}),
        ({"sessions": ["key"]}, {"session:key:foo"}),
        (
            {"broadcast": True, "users": ["a"], "groups": ["a"], "sessions": ["a"]},
            {"broadcast:foo", "user:a:foo", "group:a:foo", "session:a:foo"},
        ),
        ({"users": [User(username="john")]}, {"user:john:foo"}),
        ({"users": [AnonymousUser()]}, set()),
        ({"users": False, "groups": False, "sessions": False}, set()),
    ],
)
@pytest.mark.parametrize("prefix", [None, "", "ws"])
def test_names(settings, prefix, kwargs, expected):
    """Every audience has its names, any combination of them."""
    settings.WS4REDIS_PREFIX = prefix
    if prefix:
        expected = {f"{prefix}:{name}" for name in expected}
    assert names(facility="foo", **kwargs) == expected


@pytest.mark.parametrize(
    "request_",
    [
        None,
        object(),
        request(),
        request(AnonymousUser(), SessionStore()),
        request(AnonymousUser(), {"ws4redis:memberof": ["chatters"]}),
        request(User(username=""), None),
    ],
)
def test_nobody(request_):
    """SELF without a user, an auth group or a saved session publishes to nobody."""
    everybody = {"users": [SELF], "groups": [SELF], "sessions": [SELF]}
    assert names(facility="foo", request=request_, **everybody) == set()


class Session(dict):
    """A session that has been saved."""

    session_key = "key"


def test_self():
    """SELF is the user, every auth group in the session, and the session of the request."""
    john = request(User(username="john@x"), Session({"ws4redis:memberof": ["a", "b: 1", ""]}))
    assert names(facility="foo", request=john, users=[SELF], groups=[SELF, "c"], sessions=SELF) == {
        "user:john@x:foo",
        "group:a:foo",
        "group:b%3A 1:foo",
        "group:c:foo",
        "session:key:foo",
    }


@pytest.mark.parametrize(
    ("member_of", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ("room", ["room"]),
        ("", []),
        (None, []),
        ([], []),
        ([7, "", None], ["7"]),
    ],
)
def test_auth_groups_of_the_session(member_of, expected):
    """The application may write room names of its own into the session, a single one as well."""
    found = request(User(username="john"), Session({"ws4redis:memberof": member_of}))
    assert own_identities(found, "group") == expected


@pytest.mark.parametrize(
    ("kwargs", "expected", "remedy"),
    [
        ({"broadcast": 1}, {"broadcast:foo"}, "broadcast=True"),
        ({"broadcast": 0}, set(), "broadcast=False"),
        ({"users": True}, {"user:john:foo"}, r"users=\[SELF\]"),
        ({"groups": True}, {"group:a:foo"}, r"groups=\[SELF\]"),
        ({"sessions": True}, {"session:key:foo"}, r"sessions=\[SELF\]"),
        ({"users": "mary"}, {"user:mary:foo"}, r"users=\['mary'\]"),
        ({"groups": "a"}, {"group:a:foo"}, r"groups=\['a'\]"),
    ],
)
def test_deprecated_forms(kwargs, expected, remedy):
    """Short forms of legacy work, with a warning in the caller's file that tells the remedy."""
    john = request(User(username="john"), Session({"ws4redis:memberof": ["a"]}))
    with pytest.warns(DeprecationWarning, match=remedy) as caught:
        assert names(facility="foo", request=john, **kwargs) == expected
    assert caught[0].filename == __file__


@pytest.mark.parametrize("broadcast", ["True", "", "no", [], ["john"], 2, object()])
def test_wrong_broadcast(broadcast):
    """What is neither true nor false raises a ValueError with the value."""
    with pytest.raises(ValueError, match="neither True nor False") as caught:
        RedisPublisher(facility="foo", broadcast=broadcast)
    assert repr(broadcast) in str(caught.value)


@pytest.mark.parametrize(
    "kwargs", [{"users": 7}, {"groups": b"a"}, {"sessions": [{}]}, {"facility": None}]
)
def test_wrong_values(kwargs):
    """Values that name nobody by mistake are refused when the publisher is made."""
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        RedisPublisher(**({"facility": "foo"} | kwargs))


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        pytest.param({"user": "john"}, r"user='john'.*write users=\[…\]", id="user"),
        pytest.param({"group": "staff"}, r"group='staff'.*write groups=\[…\]", id="group"),
        pytest.param({"session": "key"}, r"session='key'.*write sessions=\[…\]", id="session"),
        pytest.param({"facillity": "foo"}, r"facillity='foo'.*write facility=…", id="letters"),
        pytest.param({"histroy": 5}, r"histroy=5.*write history=…", id="history"),
        pytest.param({"to": "john"}, r"to='john'.*there are request, facility", id="unlike"),
    ],
)
def test_misspelt_arguments(kwargs, told):
    """An argument that does not exist is a TypeError with its value, and the one that is meant."""
    with pytest.raises(TypeError, match=told):
        RedisPublisher(**kwargs)


def test_arguments_without_a_name():
    """They are a TypeError with the first value and the way to write it."""
    with pytest.raises(TypeError, match=r"\('foobar', …\) .*facility='foobar'"):
        RedisPublisher("foobar", broadcast=True)


@pytest.mark.parametrize("prefix", [None, "ws"])
@pytest.mark.parametrize("payload", [b"\x00\xff\r\n", "☃".encode(), b"{}", b"x" * 1_000_000])
def test_stored_bytes(settings, redis_client, prefix, payload):
    """The message is stored under the documented key, byte for byte, with its time to live."""
    settings.WS4REDIS_PREFIX = prefix
    RedisPublisher(facility="foobar", broadcast=True).publish_message(payload)
    key = "ws:broadcast:foobar" if prefix else "broadcast:foobar"
    assert redis_client.get(key) == payload
    assert 3598 <= redis_client.ttl(key) <= 3600


@pytest.mark.parametrize("message", ["Hello", b"Hello", bytearray(b"Hello"), RedisMessage("Hello")])
def test_kinds_of_message(redis_client, message):
    """Text, bytes and a RedisMessage are the same message."""
    RedisPublisher(facility="foo", broadcast=True).publish_message(message)
    assert redis_client.get("broadcast:foo") == b"Hello"


@pytest.mark.parametrize("message", [None, 1, {"a": 1}, ["a"], True])
def test_no_message(redis_client, message):
    """What is no message raises a ValueError, and nothing is stored."""
    with pytest.raises(ValueError, match="pass str"):
        RedisPublisher(facility="foo", broadcast=True).publish_message(message)
    assert redis_client.keys("*") == []


def test_heartbeat_is_not_published(settings, redis_client):
    """The heartbeat is not a message."""
    settings.WS4REDIS_HEARTBEAT = "--heartbeat--"
    RedisPublisher(facility="foo", broadcast=True).publish_message("--heartbeat--")
    assert redis_client.keys("*") == []


@pytest.mark.parametrize(
    ("setting", "expire", "ttl"),
    [(3600, None, 3600), (60, None, 60), (60, 10, 10), (0, 10, 10), (None, 10, 10), (60, 1, 1)],
)
def test_expire(settings, redis_client, setting, expire, ttl):
    """WS4REDIS_EXPIRE is how long a message is stored, unless the call says otherwise."""
    settings.WS4REDIS_EXPIRE = setting
    RedisPublisher(facility="foo", broadcast=True).publish_message("Hello", expire)
    assert ttl - 1 <= redis_client.ttl("broadcast:foo") <= ttl
    assert 0 < redis_client.pttl("broadcast:foo") <= ttl * 1000


@pytest.mark.parametrize(("setting", "expire"), [(3600, 0), (0, None), (None, None), (0, 0)])
def test_no_expire(settings, redis_client, setting, expire):
    """Without an expire time nothing is stored, and an older stored message stays as it is."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    settings.WS4REDIS_EXPIRE = setting
    publisher.publish_message("not stored", expire=expire)
    assert redis_client.get("broadcast:foo") is None
    publisher.publish_message("stored", expire=100)
    publisher.publish_message("not stored", expire=expire)
    assert redis_client.get("broadcast:foo") == b"stored"
    assert 98 <= redis_client.ttl("broadcast:foo") <= 100


@pytest.mark.parametrize("expire", [-1, 1.5, "60", True, float("inf"), 10**18])
def test_wrong_expire(redis_client, expire):
    """An expire time that cannot be meant raises a ValueError, and nothing is published."""
    with pytest.raises(ValueError, match="expire="):
        RedisPublisher(facility="foo", broadcast=True).publish_message("Hello", expire)
    assert redis_client.keys("*") == []


@pytest.mark.parametrize(
    "key",
    [4711, 0, UUID(int=7), b"key", True, "\ud800"],
    ids=["number", "zero", "uuid", "bytes", "true", "no unicode"],
)
@pytest.mark.parametrize("on_commit", [True, False])
def test_wrong_idempotency_key(redis_client, key, on_commit):
    """A key that cannot be meant raises a ValueError at once, and nothing is published."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    with pytest.raises(ValueError, match=r"idempotency_key=.* is no text"):
        publisher.publish_message("Hello", on_commit=on_commit, idempotency_key=key)
    assert redis_client.keys("*") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"keep": False, "expire": 60}, "^keep=False, and expire=60 needs keep=True"),
        ({"keep": False, "idempotency_key": "k"}, "idempotency_key='k' needs keep=True"),
        ({"keep": 0}, "keep=0 is neither True nor False"),
    ],
    ids=["expire", "idempotency key", "no answer"],
)
def test_what_contradicts_keep(redis_client, arguments, told):
    """What needs something to be kept raises a ValueError, and nothing is published."""
    with pytest.raises(ValueError, match=told):
        RedisPublisher(facility="foo", broadcast=True).publish_message("Hello", **arguments)
    assert redis_client.keys("*") == []


def test_what_is_not_kept(redis_client):
    """It leaves no trace, whatever is stored otherwise; an expire time of 0 contradicts nothing."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher._expire = 7
    for expire in (None, 0):
        publisher.publish_message("Hello", expire, keep=False)
    assert redis_client.keys("*") == []


def test_a_policy_keeps_nothing(redis_client, no_policies):
    """Unless the call says otherwise; an expire time alone does not."""
    facility("foo", keep=False)(lambda request: True)
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher.publish_message("Hello")
    assert redis_client.keys("*") == []
    with pytest.raises(
        ValueError, match=r"^The policy .*keep=False, and expire=60 needs keep=True"
    ):
        publisher.publish_message("Hello", 60)
    publisher.publish_message("Hello", 60, keep=True)
    assert redis_client.get("broadcast:foo") == b"Hello"


def test_expire_of_a_publisher(redis_client):
    """A publisher may have an expire time of its own, set the way legacy code does."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    assert publisher._expire == 3600
    publisher._expire = 7
    publisher.publish_message("Hello")
    assert 6 <= redis_client.ttl("broadcast:foo") <= 7


def test_publishing_to_nobody(quiet_redis):
    """Without any channel there is nothing to do, and nothing is asked of Redis."""
    get_client().ping()
    before = quiet_redis.info("stats")["total_commands_processed"]
    RedisPublisher(facility="foo", users=[]).publish_message("Hello")
    assert quiet_redis.info("stats")["total_commands_processed"] == before + 1
    assert quiet_redis.keys("*") == []


def test_own_connection(settings, redis_client, redis_url, free_port):
    """A store may be given a client of its own, at once or later, and uses it."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    client = redis.Redis.from_url(redis_url)
    store = RedisStore(client)
    assert store._connection is client
    store._publishers.add("broadcast:foo")
    store.publish_message("Hello")
    store = RedisStore()
    store._publishers = {"broadcast:bar"}
    with pytest.raises(redis.exceptions.ConnectionError):
        store.publish_message("Hello")
    store._connection = client
    store.publish_message("Hello")
    assert redis_client.mget("broadcast:foo", "broadcast:bar") == [b"Hello", b"Hello"]
    client.close()


def test_process_client_is_looked_up(redis_url, settings):
    """A store that was given the process's own client follows the settings like all others."""
    store = RedisStore(get_client())
    settings.WS4REDIS_CONNECTION = redis_url + "?socket_timeout=1"
    assert store._connection is get_client()
    other = make_client()
    store._connection = other
    assert store._connection is other


def test_no_warnings():
    """The documented ways to address an audience are no deprecated ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RedisPublisher(
            facility="foo", broadcast=True, users=["john"], groups=("a",), sessions=[SELF]
        )


# Messages


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        ("Hello ☃", "Hello ☃".encode()),
        (b"\xff\x00", b"\xff\x00"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("", b""),
        (b"", b""),
        ([b"message", b"broadcast:foo", b"payload"], b"payload"),
    ],
)
def test_redis_message(value, payload):
    """A message is its payload, as bytes."""
    message = RedisMessage(value)
    assert message == payload
    assert isinstance(message, bytes)
    assert RedisMessage(message) == message


@pytest.mark.parametrize("value", [b"Hello", "--heartbeat"])
def test_redis_message_survives_pickling(value):
    """A message can be handed to another process, as Celery does."""
    message = RedisMessage(value)
    assert pickle.loads(pickle.dumps(message)) == message


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, {}, {"a": 1}, [], ["message", 1, 2], [b"message", b"foo"], object()],
)
def test_no_redis_message(value):
    """What is neither text nor bytes is refused, with the remedy."""
    with pytest.raises(ValueError, match=r"pass str or bytes, for instance json\.dumps"):
        RedisMessage(value)


def test_nothing_gives_nothing():
    """None, and a reply of redis-py that is no message, give None instead, as in legacy."""
    assert RedisMessage(None) is None
    assert RedisMessage([b"subscribe", b"broadcast:foo", 1]) is None


@pytest.mark.parametrize("heartbeat", ["--heartbeat--", b"--heartbeat--", "☃"])
def test_heartbeat_is_no_message(settings, heartbeat):
    """The configured heartbeat gives None, as text and as bytes; without a setting it is text."""
    as_bytes = heartbeat if isinstance(heartbeat, bytes) else heartbeat.encode()
    assert RedisMessage(as_bytes) == as_bytes
    settings.WS4REDIS_HEARTBEAT = heartbeat
    assert RedisMessage(as_bytes) is None
    assert RedisMessage(as_bytes.decode()) is None
    assert RedisMessage(bytearray(as_bytes)) is None
    assert RedisMessage([b"message", b"broadcast:foo", as_bytes]) is None
    assert RedisMessage(as_bytes + b" ") == as_bytes + b" "


@given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])))
def test_any_payload_is_kept(payload):
    """Every text and every byte string is kept as it is."""
    assert RedisMessage(payload) == (payload if isinstance(payload, bytes) else payload.encode())
