"""What is known of a socket, and what a middleware has found is read anew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.utils.functional import SimpleLazyObject

from channels_ws4redis.handshake.identity import (
    account_mark,
    had_user,
    has_renewable,
    marks_of,
    renewed,
    what_changed,
)
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.protocol.names import MEMBER_OF
from channels_ws4redis.protocol.orders import Trait, mark, split

PATH = {"type": "websocket", "path": "/ws/foo", "headers": []}


def request(**scope) -> WebSocketRequest:
    """Return the request of a socket."""
    return WebSocketRequest({**PATH, **scope})


def marks(socket: WebSocketRequest, channels=()) -> set[bytes]:
    """Return the marks of a socket one by one."""
    return set(split(marks_of(socket, "demo:", channels)))


def test_a_socket_is_known_by_all_that_is_known_of_it() -> None:
    session = SimpleNamespace(session_key="the key", _session_cache={MEMBER_OF: ["staff"]})
    socket = request(user=User(pk=7, username="john"), session=session)
    channels = ["demo:group:50%25:foo", "demo:broadcast:foo"]
    assert marks(socket, channels) == {
        mark(Trait.SESSION, "the key"),
        mark(Trait.USER, "john"),
        account_mark(User(pk=7)),
        mark(Trait.FACILITY, "foo"),
        mark(Trait.GROUP, "staff"),
        mark(Trait.GROUP, "50%"),
    }


def test_a_socket_that_nobody_has_looked_at_is_known_by_its_cookie() -> None:
    """The user is unknown; nothing is loaded for this."""
    cookie = [(b"cookie", b"a=b; sessionid=the-key")]
    assert mark(Trait.SESSION, "the-key") in marks(request(headers=cookie))
    lazy = request(user=SimpleLazyObject(lambda: pytest.fail("it was loaded")))
    assert marks(lazy) == {bytes(8), bytes([255] * 8), mark(Trait.FACILITY, "foo")}


@pytest.mark.parametrize(
    "user", [None, AnonymousUser(), User(username="")], ids=["none", "anonymous", "without a name"]
)
def test_nobody_has_no_mark(user) -> None:
    assert marks(request(user=user)) == {bytes(8), mark(Trait.FACILITY, "foo")}


@pytest.mark.parametrize("value", [None, AnonymousUser(), User(), Group(pk=7, name="x"), "7", 7])
def test_what_is_no_saved_user_has_no_account(value) -> None:
    assert account_mark(value) is None


JOHN = User(pk=7, username="john")
COOKIE = [(b"cookie", b"sessionid=x")]


def unseen() -> SimpleLazyObject:
    """Return a user whom nobody has looked at."""
    return SimpleLazyObject(lambda: pytest.fail("it was loaded"))


@pytest.mark.parametrize(
    ("before", "now", "what"),
    [
        ({"user": JOHN}, {"user": JOHN}, ""),
        ({"user": JOHN}, {"user": None}, "the user is deleted, not active, or has another"),
        ({"user": JOHN}, {"user": User(pk=8, username="john")}, "its user is another one now"),
        ({"user": JOHN}, {"user": User(pk=7, username="renamed")}, "or has another name"),
        ({"user": None}, {"user": JOHN}, "its user is another one now"),
        ({"user": JOHN, "headers": COOKIE}, {"user": JOHN}, "its session has ended"),
        ({"user": JOHN}, {"user": JOHN, "headers": COOKIE}, "it has another session now"),
        ({"user": JOHN}, {"user": unseen()}, ""),
        ({"user": unseen(), "headers": COOKIE}, {"user": None}, ""),
        ({"user": None}, {"user": unseen(), "headers": COOKIE}, ""),
        ({"user": unseen(), "headers": COOKIE}, {"user": unseen()}, "its session has ended"),
    ],
    ids=[
        "nothing", "logged out", "another", "renamed", "logged in", "session ended",
        "another session", "no longer looked at", "found to be nobody", "not looked at any more",
        "session of nobody we know",
    ],
)  # fmt: skip
def test_who_is_somebody_else(before, now, what) -> None:
    """The log says in which way; nothing is said of what was not looked at both times."""
    changed = what_changed(marks_of(request(**before), "", []), marks_of(request(**now), "", []))
    assert what in changed
    assert bool(what) == bool(changed)


def test_other_groups_are_nobody_else() -> None:
    john = request(user=JOHN)
    assert not what_changed(marks_of(john, "", []), marks_of(john, "", ["group:staff:foo"]))


def test_who_was_logged_in() -> None:
    users = [JOHN, None, unseen()]
    assert [had_user(marks_of(request(user=user), "", [])) for user in users] == [
        True,
        False,
        False,
    ]


# What a middleware has found


@pytest.fixture
def user(db) -> User:
    """Somebody who is there."""
    return User.objects.create_user("paul", password="secret")


@pytest.fixture
def by_session(user) -> dict:
    """What a middleware says that has found the user by the session."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return {**PATH, "user": user, "session": session}


@pytest.fixture
def by_token(user) -> dict:
    """What one says that has found the user by something else."""
    return {**PATH, "user": user}


def test_nothing_has_changed(by_session, by_token, user) -> None:
    for scope in (by_session, by_token):
        assert has_renewable(scope)
        assert renewed(scope)["user"] == user
        assert renewed(scope)["user"] is not user
    assert renewed(by_session)["session"].session_key == by_session["session"].session_key


def test_another_password(by_session, by_token, user) -> None:
    """The session is no good any more; of a token nobody knows that."""
    user.set_password("another one")
    user.save()
    assert renewed(by_session)["user"] is None
    assert renewed(by_token)["user"] == user


def test_a_user_who_is_not_active_or_not_there(by_session, by_token, user) -> None:
    user.is_active = False
    user.save()
    assert renewed(by_session)["user"] is None
    assert renewed(by_token)["user"] is None
    user.delete()
    user.pk = by_token["user"].pk = 4711
    assert renewed(by_session)["user"] is None
    assert renewed(by_token)["user"] is None


def test_a_session_that_is_gone(by_session) -> None:
    SessionStore(by_session["session"].session_key).delete()
    assert renewed(by_session)["user"] is None


def test_nothing_that_can_be_read_anew() -> None:
    """What a project has made by itself is taken as it is."""
    for scope in (PATH, {**PATH, "user": None}, {**PATH, "user": AnonymousUser(), "session": {}}):
        assert not has_renewable(scope)
