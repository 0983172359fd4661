"""The auth groups of a socket's user: those that the session names, where the database agrees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.utils.functional import SimpleLazyObject

from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.members import ask_database, bring_up_to_date
from channels_ws4redis.models import store_groups_in_session
from channels_ws4redis.protocol.names import AT_LOGIN, MEMBER_OF

pytestmark = pytest.mark.django_db


@pytest.fixture
def visitor():
    """A user of the group staff, and a session that knows of it."""
    user = User.objects.create_user("paul")
    user.groups.add(Group.objects.create(name="staff"))
    Group.objects.create(name="editors")
    request = SimpleNamespace(user=user, session=SessionStore())
    store_groups_in_session(User, user, request)
    request.session.save()
    return request


def members(request) -> list[str]:
    """Return the list in the session, once the database was asked."""
    ask_database(request)
    return request.session[MEMBER_OF]


def test_nothing_has_changed(visitor) -> None:
    assert members(visitor) == ["staff"]


def test_a_list_of_the_login_follows_the_groups(visitor) -> None:
    """New ones, too, and the first of somebody who was in none."""
    visitor.user.groups.set([Group.objects.get(name="editors")])
    assert members(visitor) == ["editors"]
    visitor.session[MEMBER_OF] = visitor.session[AT_LOGIN] = []
    assert members(visitor) == ["editors"]


def test_a_group_that_the_user_has_left(visitor) -> None:
    """Its name counts no more, whoever has written it; names that are no groups' stay."""
    visitor.session[MEMBER_OF] = ["room 7", "staff", "editors"]
    assert members(visitor) == ["room 7", "staff"]
    visitor.session[MEMBER_OF] = ["room 7", "staff", "", None]
    visitor.user.groups.clear()
    assert members(visitor) == ["room 7"]


def test_a_list_of_the_application_gets_no_new_names(visitor) -> None:
    visitor.session[MEMBER_OF] = ["room 7"]
    assert members(visitor) == ["room 7"]


def test_a_bare_name(visitor) -> None:
    """Which legacy took as well."""
    visitor.session[MEMBER_OF] = "staff"
    assert members(visitor) == ["staff"]
    visitor.session[MEMBER_OF] = "editors"
    assert members(visitor) == []


def test_the_session_itself_stays(visitor) -> None:
    """Nobody saves it."""
    visitor.user.groups.clear()
    assert members(visitor) == []
    assert SessionStore(visitor.session.session_key)[MEMBER_OF] == ["staff"]


def test_a_lazy_user(visitor) -> None:
    user = visitor.user
    user.groups.clear()
    visitor.user = SimpleLazyObject(lambda: user)
    assert members(visitor) == []


def test_who_has_no_groups_is_not_asked(visitor, django_assert_num_queries) -> None:
    """Nobody, and somebody without a list."""
    with django_assert_num_queries(0):
        visitor.user = AnonymousUser()
        assert members(visitor) == ["staff"]
        visitor.user, visitor.session = User(pk=1), SessionStore()
        ask_database(visitor)
    assert MEMBER_OF not in visitor.session


def test_queries(visitor, django_assert_num_queries) -> None:
    """One for the groups of the user, and one for names that are not among them."""
    with django_assert_num_queries(1):
        ask_database(visitor)
    visitor.session[MEMBER_OF] = ["staff", "room 7"]
    with django_assert_num_queries(2):
        ask_database(visitor)


@pytest.mark.parametrize(
    ("flags", "is_stock", "causes", "asks"),
    [
        (["subscribe-group"], True, ["groups"], True),
        (["publish-group"], True, ["groups"], True),
        ([], False, ["groups"], True),
        (["subscribe-user", "subscribe-broadcast"], True, ["groups"], False),
        (["subscribe-group"], True, ["logout", "user"], False),
    ],
)
async def test_when_the_database_is_asked(settings, flags, is_stock, causes, asks) -> None:
    """Only if somebody is about to look at the groups."""
    settings.WS4REDIS_REVOKE_ON = causes
    session = Asked()
    request = SimpleNamespace(user=AnonymousUser(), session=session)
    await bring_up_to_date(request, flags, is_stock, Calls({}))
    assert session.asked == asks


class Asked(SessionStore):
    """Notes whether somebody has looked for the list."""

    asked = False

    def get(self, key, default=None):
        self.asked = True
        return default


@pytest.mark.parametrize("session", [None, {MEMBER_OF: ["staff"]}], ids=str)
async def test_a_session_that_is_none_of_djangos(session) -> None:
    """A hook that has made one of its own knows best what is in it."""
    request = SimpleNamespace(user=AnonymousUser(), session=session)
    await bring_up_to_date(request, ["subscribe-group"], True, Calls({}))
    assert request.session == session
