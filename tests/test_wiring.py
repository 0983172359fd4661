"""What Django tells of logins, users and auth groups ends sockets, or has them looked at again."""

from __future__ import annotations

import asyncio
import shutil
import time
from datetime import timedelta
from importlib import import_module

import pytest
from django.contrib.auth import login, logout
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import transaction
from django.test import RequestFactory
from django.test.utils import isolate_apps
from django.utils import timezone

from channels_ws4redis import wiring
from channels_ws4redis.conf import settings as package_settings
from channels_ws4redis.fanout.hearing import channel
from channels_ws4redis.handshake.identity import account_mark
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action, Trait, mark, parse_order
from channels_ws4redis.publish import ordering
from channels_ws4redis.publisher import RedisPublisher
from tests.clients import PATIENCE, Visitor

PATH = "/ws/foo?subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"


@pytest.fixture(params=["daphne", "uvicorn"])
def start(request, serve, database, tmp_path):
    """Start a server with a database of the test's own."""

    def started(**settings):
        path = tmp_path / "db.sqlite3"
        shutil.copy(database, path)
        return serve(request.param, settings=settings, WS4REDIS_TEST_DATABASE=str(path))

    return started


async def publish(message: str, **kwargs) -> None:
    """Publish to everybody, or to others."""
    publisher = RedisPublisher(facility="foo", **(kwargs or {"broadcast": True}))
    await publisher.apublish_message(message, expire=0)


async def change(site, how: str, user: str = "john") -> None:
    """Change something about a user, on the server."""
    answer = await Visitor(site).arequest("/test/change", {"user": user, "how": how})
    assert answer.status == 200, answer.body[:500]


async def test_a_logout_ends_the_session_in_all_tabs(start) -> None:
    """Those of other sessions of the same user stay."""
    site = start()
    john, elsewhere = Visitor(site).login("john"), Visitor(site).login("john")
    public = "/ws/foo?subscribe-broadcast"
    async with (
        john.socket(PATH) as one,
        john.socket(public) as two,
        elsewhere.socket(PATH) as stays,
    ):
        await john.arequest("/test/logout", {})
        for socket in (one, two):
            assert await socket.close_code() == codes.REVOKED
        await publish("for john", users=["john"])
        assert await stays.receive() == "for john"


async def test_a_login_has_the_sockets_come_back(start) -> None:
    """Its session has another key from then on."""
    site = start()
    visitor = Visitor(site)
    await visitor.arequest("/test/session", {"some": "thing"})
    async with visitor.socket(PATH) as socket:
        await asyncio.to_thread(visitor.login, "john")
        assert await socket.close_code() == codes.TRY_AGAIN_LATER
    async with visitor.socket(PATH) as socket:
        await publish("for john", users=["john"])
        assert await socket.receive() == "for john"


@pytest.mark.parametrize("how", ["deactivate", "password", "delete"])
async def test_a_user_who_may_not_be_here_any_more(start, how) -> None:
    """All sockets of that user are closed, and nobody else's."""
    site = start()
    john, mary = Visitor(site).login("john"), Visitor(site).login("mary")
    async with john.socket(PATH) as gone, mary.socket(PATH) as stays:
        await change(site, how)
        assert await gone.close_code() == codes.REVOKED
        await publish("after")
        assert await stays.receive() == "after"


async def test_a_user_who_is_saved(start) -> None:
    """Nothing that concerns a socket has changed, and nothing is missed."""
    site = start()
    john = Visitor(site).login("john")
    async with john.socket(PATH) as socket:
        await change(site, "call")
        for number in range(20):
            await publish(str(number), users=["john"])
        assert await socket.receive_many(20) == [str(number) for number in range(20)]


async def test_a_user_who_is_renamed_comes_back(start) -> None:
    """The channels have another name now, which is no reason to stay away."""
    site = start()
    john = Visitor(site).login("john")
    async with john.socket(PATH) as socket:
        await change(site, "rename")
        assert await socket.close_code() == codes.TRY_AGAIN_LATER
    async with john.socket(PATH) as socket:
        await publish("after", users=["paul"])
        assert await socket.receive() == "after"


@pytest.mark.parametrize("how", ["leave", "clear", "expel", "dissolve"])
@pytest.mark.parametrize("hook", [None, "tests.site.current_groups.allowed_channels"])
async def test_a_user_who_leaves_an_auth_group(start, how, hook) -> None:
    """From either side; also where a hook asks the database for the groups."""
    site = start(WS4REDIS_ALLOWED_CHANNELS=hook)
    john = Visitor(site).login("john")
    async with john.socket(PATH) as socket:
        await publish("before", groups=["chatters"])
        assert await socket.receive() == "before"
        await change(site, how)
        await asyncio.sleep(0.5)
        await publish("after", groups=["chatters"])
        await publish("to all")
        assert await socket.receive() == "to all"


async def test_causes_that_are_switched_off(start) -> None:
    """The project does it in its own way."""
    site = start(WS4REDIS_REVOKE_ON=[])
    john = Visitor(site).login("john")
    async with john.socket(PATH) as socket:
        await change(site, "deactivate")
        await john.arequest("/test/logout", {})
        await publish("for john", users=["john"])
        assert await socket.receive() == "for john"


# When orders are given


def orders(redis_client) -> list[Action]:
    """Return what was ordered so far."""
    entries = redis_client.xrange(f"{{{channel()}}}:history")
    return [parse_order(fields[b"p"]).action for _, fields in entries]


@pytest.fixture
def session_request(settings):
    """A request with a new session, as the middleware makes it."""
    request = RequestFactory().get("/")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    return request


@pytest.mark.django_db(transaction=True)
def test_the_order_of_a_logout_follows_the_flush(session_request, redis_client) -> None:
    """Who connects before the session is gone would be found logged in, and not be told."""
    login(session_request, User.objects.create_user("paul"))
    session_request.session.save()
    session, seen = session_request.session, []
    delete = session.delete
    session.delete = lambda *args: (seen.append(orders(redis_client)), delete(*args))
    logout(session_request)
    assert seen == [[]]
    assert orders(redis_client) == [Action.DISCONNECT]


@pytest.mark.django_db(transaction=True)
async def test_a_logout_in_asynchronous_code(session_request, redis_client) -> None:
    """As in synchronous code."""
    auth = import_module("django.contrib.auth")
    if not hasattr(auth, "alogout"):
        pytest.skip("Django has no alogout before 5.0")
    user = await User.objects.acreate(username="paul")
    await auth.alogin(session_request, user, "django.contrib.auth.backends.ModelBackend")
    await asyncio.to_thread(session_request.session.save)
    await auth.alogout(session_request)
    assert orders(redis_client) == [Action.DISCONNECT]


@pytest.mark.django_db(transaction=True)
def test_orders_wait_for_the_commit(redis_client) -> None:
    """Who looks before it sees what was; what is rolled back concerns nobody."""
    user = User.objects.create_user("paul")
    with transaction.atomic():
        user.is_active = False
        user.save()
        assert orders(redis_client) == []
    assert orders(redis_client) == [Action.REFRESH]
    with transaction.atomic():
        user.delete()
        transaction.set_rollback(True)
    assert orders(redis_client) == [Action.REFRESH]


@pytest.mark.django_db(transaction=True)
def test_what_concerns_no_socket_gives_no_order(session_request, redis_client) -> None:
    """A new user, a login, and a membership that there is already."""
    user = User.objects.create_user("paul")
    group = Group.objects.create(name="new")
    login(session_request, user)
    assert orders(redis_client) == []
    user.groups.add(group)
    user.groups.add(group)
    group.user_set.add(user)
    assert orders(redis_client) == [Action.REFRESH]


@pytest.mark.django_db
def test_many_old_sessions_are_deleted_in_one_go(django_assert_num_queries) -> None:
    """Nobody has Django load them to be told of each."""
    old = timezone.now() - timedelta(days=1)
    Session.objects.bulk_create(
        Session(session_key=f"key{number}", session_data="", expire_date=old)
        for number in range(10)
    )
    with django_assert_num_queries(1):
        call_command("clearsessions")
    assert not Session.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_redis_is_down(settings, free_port, redis_url, redis_client, caplog) -> None:
    """What is committed stays, the log tells of it, and the order is given when it can be."""
    user = User.objects.create_user("paul")
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    user.save()
    user.delete()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 2
    assert lines[0].startswith("Sockets are told later that they may hear less: ConnectionError")
    settings.WS4REDIS_CONNECTION = redis_url
    assert wait_for_orders(redis_client, 2) == [Action.REFRESH, Action.DISCONNECT]


def wait_for_orders(redis_client, count: int) -> list[Action]:
    """Return what was ordered, once there are so many."""
    deadline = time.monotonic() + PATIENCE
    while len(orders(redis_client)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return orders(redis_client)


@pytest.mark.django_db(transaction=True)
def test_too_many_to_be_told(settings, free_port, redis_url, redis_client, monkeypatch) -> None:
    """Then all sockets are looked at again."""
    monkeypatch.setattr(ordering, "HISTORY", 2)
    users = [User.objects.create_user(f"paul{number}") for number in range(3)]
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    for user in users:
        user.save()
    settings.WS4REDIS_CONNECTION = redis_url
    assert wait_for_orders(redis_client, 1) == [Action.REFRESH]


@pytest.mark.django_db(transaction=True)
def test_a_project_that_commits_by_hand(session_request, redis_client) -> None:
    """It saves users and logs them out as ever; the orders follow a moment later."""
    user = User.objects.create_user("paul")
    login(session_request, user)
    session_request.session.save()
    transaction.set_autocommit(False)
    try:
        user.save()
        logout(session_request)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert wait_for_orders(redis_client, 2) == [Action.REFRESH, Action.DISCONNECT]


class Proxied(User):
    """The project's users, as an admin of its own lists them."""

    class Meta:
        """Of an app that has migrations."""

        proxy = True
        app_label = "auth"


@pytest.mark.django_db(transaction=True)
def test_a_proxy_stands_for_the_same_user(redis_client, monkeypatch) -> None:
    """Whoever is changed or deleted by it is the user of those sockets."""
    wiring.connect()
    given = []
    monkeypatch.setattr(ordering, "send", given.extend)
    user = User.objects.create_user("paul")
    user.groups.add(Group.objects.create(name="new"))
    given.clear()
    proxied = Proxied.objects.get(pk=user.pk)
    proxied.save()
    proxied.groups.clear()
    proxied.delete()
    assert [order.action for order in given] == [*[Action.REFRESH] * 2, Action.DISCONNECT]
    assert all(order.names(account_mark(User(pk=user.pk))) for order in given)


def test_a_model_that_extends_the_users_stands_for_them() -> None:
    with isolate_apps("django.contrib.auth"):

        class Extended(User):
            class Meta:
                app_label = "auth"

    assert account_mark(Extended(pk=7)) == account_mark(User(pk=7))
    assert account_mark(Extended(pk=7)) != account_mark(Group(pk=7))


@pytest.mark.django_db(transaction=True)
def test_an_auth_group_that_is_deleted(monkeypatch) -> None:
    """Its members have left it, of which Django tells nothing else; so it is with another name."""
    given = []
    monkeypatch.setattr(ordering, "send", given.extend)
    group = Group.objects.create(name="new")
    Group.objects.create(name="newer")
    assert given == []
    group.name = "old"
    group.save()
    Group.objects.all().delete()
    named = [[name for name in ("old", "newer") if order.names(mark(Trait.GROUP, name))]
             for order in given]  # fmt: skip
    assert sorted(named) == [["newer"], ["old"], ["old"]]


@pytest.mark.django_db(transaction=True)
def test_a_process_without_a_channel_layer(settings, redis_client, caplog) -> None:
    """A project that only uses the database has nobody to tell."""
    settings.CHANNEL_LAYERS = {}
    User.objects.create_user("paul").save()
    assert orders(redis_client) == []
    assert caplog.messages == []


@pytest.mark.parametrize("value", ["logout", ["log out"], 7, None, [["logout"]]], ids=str)
def test_a_cause_that_there_is_not(settings, value) -> None:
    settings.WS4REDIS_REVOKE_ON = value
    with pytest.raises(ImproperlyConfigured, match="logout, login, user, groups"):
        _ = package_settings.WS4REDIS_REVOKE_ON
