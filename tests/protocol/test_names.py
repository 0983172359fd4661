"""Names of channels, flags of socket URLs, and the audience values people pass to a publisher."""

from __future__ import annotations

import enum
import uuid

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer as CoreLayer
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.db import models
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from hypothesis import assume, given
from hypothesis import strategies as st

from channels_ws4redis.fanout.stock import StockBackend
from channels_ws4redis.fanout.stock_layers import encode_name
from channels_ws4redis.protocol.names import (
    AUDIENCES,
    SELF,
    Flags,
    as_facility,
    channel_labels,
    channel_name,
    identities,
    parse_flags,
)
from channels_ws4redis.subscriber import RedisSubscriber

FLAGS = [*RedisSubscriber.subscription_channels, *RedisSubscriber.publish_channels]

text = st.text(st.characters(exclude_categories=["Cs"]))
#: Texts that are likely to collide, if any do.
tricky = st.text(":%25_3A.ab/é", max_size=8) | text
channels = st.tuples(st.just("broadcast"), st.none(), tricky) | st.tuples(
    st.sampled_from(["user", "group", "session"]), tricky, tricky
)


class Colour(str, enum.Enum):  # noqa: UP042 # StrEnum behaves differently, and that is the point
    RED = "red"


class Room(models.Model):  # noqa: DJ008 # only here to have no name
    class Meta:  # noqa: D106
        app_label = "tests"
        managed = False


@pytest.mark.parametrize(
    ("prefix", "audience", "identity", "facility", "name"),
    [
        ("", "broadcast", None, "foo", "broadcast:foo"),
        ("", "user", "john", "foo", "user:john:foo"),
        ("", "user", "john@example.com", "foo", "user:john@example.com:foo"),
        ("", "group", "chatters", "foo", "group:chatters:foo"),
        ("", "session", "abc", "foo", "session:abc:foo"),
        ("ws:", "broadcast", None, "a/b/", "ws:broadcast:a/b/"),
        ("ws:", "user", "jöhn", "Größe ☃", "ws:user:jöhn:Größe ☃"),
        ("", "group", "staff:x", "chat", "group:staff%3Ax:chat"),
        ("", "group", "staff", "x:chat", "group:staff:x:chat"),
        ("", "group", "100%", "chat", "group:100%25:chat"),
        ("", "broadcast", None, "", "broadcast:"),
    ],
)
def test_channel_name(prefix, audience, identity, facility, name):
    """Names are those of legacy, with ':' and '%' escaped inside an identity."""
    assert channel_name(prefix, audience, identity, facility) == name


@given(channels, channels)
def test_names_are_injective(one, other):
    """No two channels share a name, whatever is in the identity and the facility."""
    assume(one != other)
    assert channel_name("", *one) != channel_name("", *other)


@given(channels, channels)
def test_encoded_names_are_injective(one, other):
    """Nor do they where a channel layer takes few letters only."""
    assume(one != other)
    assert encode_name(channel_name("ws:", *one)) != encode_name(channel_name("ws:", *other))


@given(text.filter(bool), text.filter(bool))
def test_encoding_is_injective_and_legal(one, other):
    """Any text becomes a name that every stock layer takes, and two texts become two names."""
    layer, core = InMemoryChannelLayer(), CoreLayer()
    assert layer.require_valid_group_name(encode_name(one))
    assert core.require_valid_group_name(encode_name(one))
    if one != other:
        assert encode_name(one) != encode_name(other)


@given(st.text("a_:", min_size=1, max_size=150), st.text("a_:", min_size=1, max_size=150))
def test_encoding_of_long_names_is_injective(one, other):
    """Names on both sides of the limit of 100 letters stay apart, and so do digests and names."""
    assume(one != other)
    assert encode_name(one) != encode_name(other)
    assert encode_name(encode_name(one)) != encode_name(one) or "_" not in encode_name(one)


def test_group_names_are_literal_where_possible():
    """A layer that takes a name carries the group under that very name."""
    assert StockBackend(InMemoryChannelLayer()).group_name("plain-name.1") == "plain-name.1"
    assert StockBackend(InMemoryChannelLayer()).group_name("broadcast:foo") == "broadcast_3afoo"


@given(st.binary())
def test_flags_of_garbage(query_string):
    """No query string raises anything, and no flag comes out that is not known."""
    flags = parse_flags(query_string, FLAGS)
    assert set(flags.channels) <= set(FLAGS)
    assert len(set(flags.channels)) == len(flags.channels)


@given(st.lists(st.sampled_from([*FLAGS, "echo", "foo", "", "%", "=", "%ff", "subscribe-"])))
def test_flags_among_others(names):
    """Every known flag is found among whatever else is there, once, in the order of the URL."""
    flags = parse_flags("&".join(names).encode(), FLAGS)
    unknown = ["subscribe-"] if "subscribe-" in names else []
    assert flags.channels == [name for name in dict.fromkeys(names) if name in FLAGS]
    assert (flags.echo, flags.unknown) == ("echo" in names, unknown)


@pytest.mark.parametrize(
    "query_string",
    [
        b"subscribe-user",
        b"SUBSCRIBE-User",
        b"subscribe-user=1&subscribe-user=0",
        b"%73ubscribe-user",
        b"&&subscribe-user&ts=1&=",
        b" subscribe-user ",
        b"\xff&subscribe-user&%zz",
    ],
)
def test_flags_are_lenient(query_string):
    """Flags are case-insensitive, may carry a value, and may stand among anything."""
    assert parse_flags(query_string, FLAGS) == Flags(["subscribe-user"], echo=False, unknown=[])


def test_what_looks_like_a_flag_is_told_apart_from_what_does_not():
    """A misspelt flag is worth a word to a developer, whatever else is in an address is not."""
    query_string = b"Subscribe-Users&publish-x=1&subscribe-users&ts=1&subscribed-user&x-publish-y"
    assert parse_flags(query_string, FLAGS).unknown == ["subscribe-users", "publish-x"]


@pytest.mark.parametrize("separator", [";", "+", ",", "%26"])
def test_flags_need_an_ampersand(separator):
    """Text that merely contains a flag is none."""
    query_string = f"subscribe-user{separator}subscribe-group".encode()
    assert parse_flags(query_string, FLAGS).channels == []


def john():
    return User(username="john")


def unsaved_session():
    return SessionStore()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (None, []),
        ([], []),
        ("", []),
        ([""], []),
        ([None], []),
        ("john", ["john"]),
        ("john@example.com", ["john@example.com"]),
        (["john", "mary"], ["john", "mary"]),
        (("john", "mary", "john"), ["john", "mary"]),
        ({"john"}, ["john"]),
        (frozenset({"john"}), ["john"]),
        ({"john": 1}.keys(), ["john"]),
        ((name for name in ["john", "mary"]), ["john", "mary"]),
        (map(str, [1, 2]), ["1", "2"]),
        (john(), ["john"]),
        ([john(), "john"], ["john"]),
        (SimpleLazyObject(john), ["john"]),
        ([SimpleLazyObject(john)], ["john"]),
        (AnonymousUser(), []),
        (SimpleLazyObject(AnonymousUser), []),
        ([AnonymousUser(), "mary"], ["mary"]),
        (Group(name="chatters"), ["chatters"]),
        ([Group(name="chatters"), Group(name="")], ["chatters"]),
        (SELF, [SELF]),
        ([SELF, "john", SELF], [SELF, "john"]),
        (uuid.UUID(int=1), [str(uuid.UUID(int=1))]),
        ([uuid.UUID(int=1)], [str(uuid.UUID(int=1))]),
        (unsaved_session(), []),
        ([unsaved_session()], []),
        (mark_safe("john"), ["john"]),
        (SimpleLazyObject(lambda: "john"), ["john"]),
        ([Colour.RED], ["red"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_identities(values, names):
    """Everything that names somebody is taken, nobody is left out, nobody comes twice."""
    found = identities(values, "users")
    assert found == names
    assert all(type(name) is str for name in found if name is not SELF)


@pytest.mark.django_db
def test_identities_in_querysets():
    """Querysets of users and groups name them all, and so do their values."""
    User.objects.bulk_create([User(username="john"), User(username="mary@example.com")])
    Group.objects.create(name="staff: day")
    users = User.objects.order_by("pk")
    assert identities(users, "users") == ["john", "mary@example.com"]
    assert identities(users.iterator(), "users") == ["john", "mary@example.com"]
    assert identities(users.values_list("username", flat=True), "users") == [
        "john",
        "mary@example.com",
    ]
    assert identities(Group.objects.all(), "groups") == ["staff: day"]
    assert identities(User.objects.none(), "users") == []


@pytest.mark.django_db
def test_identity_of_a_saved_session():
    """A session that has been saved is named by its key."""
    session = SessionStore()
    session["a"] = 1
    session.save()
    assert identities(session, "sessions") == [session.session_key]


@pytest.mark.parametrize(
    "values",
    [5, 1.5, b"john", bytearray(b"john"), memoryview(b"john"), {"john": 1}, object(), User, john,
     Room(pk=1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("keyword", ["users", "groups", "sessions"])
def test_nonsense(values, keyword):
    """What can name nobody raises a ValueError with the value and the remedy."""
    with pytest.raises(ValueError, match=f"^{keyword}=") as caught:
        identities(values, keyword)
    assert repr(values) in str(caught.value)
    assert f"{keyword}=['john']" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [5, 0, 1.5, True, b"john", {"john": 1}, object(), ["john"], ("john",), User, john,
     Room(pk=1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_nonsense_in_a_list(value):
    """So does a member of a list that names nobody."""
    with pytest.raises(ValueError, match="which names nobody; use a str, a User") as caught:
        identities(["mary", value], "users")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("keyword", ["users", "groups", "sessions"])
def test_a_number_in_a_list(keyword):
    """Legacy took a number as text; the error says how to write that it is a name."""
    with pytest.raises(ValueError, match=rf"primary key is no name; write {keyword}=\['7'\] if"):
        identities([7], keyword)
    assert identities(["7"], keyword) == ["7"]


@pytest.mark.parametrize(
    ("value", "facility"),
    [
        ("foo", "foo"),
        ("", ""),
        ("a/b/", "a/b/"),
        (7, "7"),
        (0, "0"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (mark_safe("foo"), "foo"),
        (Colour.RED, "red"),
    ],
)
def test_facility(value, facility):
    """A facility is text, or a number or UUID taken as text."""
    found = as_facility(value)
    assert found == facility
    assert type(found) is str


@pytest.mark.parametrize("value", [None, b"foo", True, False, ["foo"], {}, ("foo",), {"foo"}])
def test_no_facility(value):
    """Anything else raises a ValueError with the value and an example."""
    with pytest.raises(ValueError, match="facility='foobar'") as caught:
        as_facility(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_cannot_be_sent(text):
    """A lone surrogate cannot be encoded, so it is refused before it comes near to Redis."""
    with pytest.raises(ValueError, match="facility="):
        as_facility(text)
    with pytest.raises(ValueError, match="users"):
        identities([text], "users")


def test_self_is_readable():
    """SELF shows as itself in error messages."""
    assert repr(SELF) == "SELF"


@pytest.mark.parametrize("prefix", ["", "ws:"])
def test_labels(prefix):
    """A client calls its channels by audience, and auth groups by name, escaped or not."""
    names = [
        channel_name(prefix, "session", "secret-key", "foo"),
        channel_name(prefix, "user", "john", "foo"),
        channel_name(prefix, "group", "a:b%", "foo:bar"),
        channel_name(prefix, "group", "c", "foo:bar"),
        channel_name(prefix, "broadcast", None, "foo"),
    ]
    assert list(channel_labels(prefix, names).values()) == [
        "session",
        "user",
        "group:a:b%",
        "group:c",
        "broadcast",
    ]


def test_labels_of_foreign_names():
    """Names that a custom subscriber made up get a label each, which tells nothing about them."""
    names = ["user:john:foo", "user:mary:foo", "server:foo", "tasks"]
    labels = channel_labels("", names)
    assert labels["user:john:foo"] == "user"
    others = [labels[name] for name in names[1:]]
    assert len(set(others)) == 3
    assert all(label.startswith("other:") and "mary" not in label for label in others)
    assert channel_labels("", names) == labels


def test_audiences_are_searched_from_the_narrowest():
    """The session comes first and the broadcast last."""
    assert AUDIENCES == ("session", "user", "group", "broadcast")
