"""A project's own tests: sockets in the test's process, with a session in the database."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import Group, User
from django.test import Client, TestCase, TransactionTestCase

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import application
from channels_ws4redis.subscriber import RedisSubscriber
from tests.docs.blocks import read_page
from tests.servers import ROOT

pytestmark = pytest.mark.server

PATIENCE = 10


class Counting(RedisSubscriber):
    """Asks the database in a hook."""

    def set_pubsub_channels(self, request, channels) -> None:
        """Look at what the test has made."""
        assert User.objects.count() == 1
        super().set_pubsub_channels(request, channels)


def cookie_of_john() -> bytes:
    """Make a user who is logged in, and return the header of the cookie."""
    client = Client()
    client.force_login(User.objects.create_user("john"))
    return client.cookies.output(header="", sep=";").strip().encode()


async def hears_as_john(cookie: bytes) -> None:
    """Open a socket with a cookie, and hear what is published to john."""
    path = "/ws/foo?subscribe-user"
    socket = WebsocketCommunicator(application, path, headers=[(b"cookie", cookie)])
    assert (await socket.connect(PATIENCE))[0]
    await RedisPublisher(facility="foo", users=["john"]).apublish_message("to john", expire=0)
    assert await socket.receive_from(PATIENCE) == "to john"
    await socket.disconnect(timeout=PATIENCE)


def change_group(user: str, group: str) -> None:
    """Put a user into an auth group, or without a name into none."""
    groups = [Group.objects.get_or_create(name=group)[0]] if group else []
    User.objects.get(username=user).groups.set(groups)


async def hears_group(cookie: bytes, group: str) -> bool:
    """Tell whether a new socket with a cookie hears an auth group."""
    path = "/ws/foo?subscribe-group&subscribe-broadcast"
    socket = WebsocketCommunicator(application, path, headers=[(b"cookie", cookie)])
    assert (await socket.connect(PATIENCE))[0]
    await RedisPublisher(facility="foo", groups=[group]).apublish_message("to it", expire=0)
    await RedisPublisher(facility="foo", broadcast=True).apublish_message("to all", expire=0)
    first = await socket.receive_from(PATIENCE)
    await socket.disconnect(timeout=PATIENCE)
    return first == "to it"


def hook_of_the_manual() -> str:
    """Return the function that reads auth groups from the database."""
    (block,) = [
        block
        for block in read_page(ROOT / "docs" / "howto" / "authorise.md", ROOT).blocks
        if (block.marker, block.argument) == ("file", "mysite/sockets.py")
    ]
    return block.text


class Sockets:
    """What holds in either kind of test case."""

    def setUp(self) -> None:
        """Log in."""
        self.cookie = cookie_of_john()

    async def test_session(self) -> None:
        """A session that the test has made is found."""
        await hears_as_john(self.cookie)

    async def test_hook(self) -> None:
        """Hooks see the test's data, too."""
        with self.settings(WS4REDIS_SUBSCRIBER=Counting):
            await hears_as_john(self.cookie)

    async def test_auth_groups(self) -> None:
        """They are those of the database; or of the last login, and those that a hook has found."""
        await sync_to_async(change_group)("john", "staff")
        assert await hears_group(self.cookie, "staff")
        with self.settings(WS4REDIS_REVOKE_ON=[]):
            await self.check_hook()

    async def check_hook(self) -> None:
        """See the list of the last login, and that of the hook."""
        assert not await hears_group(self.cookie, "staff")
        names: dict[str, Any] = {}
        exec(hook_of_the_manual(), names)
        with self.settings(WS4REDIS_ALLOWED_CHANNELS=names["allowed_channels"]):
            assert await hears_group(self.cookie, "staff")
            await sync_to_async(change_group)("john", "")
            assert not await hears_group(self.cookie, "staff")
            assert not await hears_group(b"", "staff")


class InTestCase(Sockets, TestCase):
    """All of it happens in a transaction, which no other thread can look into."""


class InTransactionTestCase(Sockets, TransactionTestCase):
    """The same without a transaction."""


@pytest.mark.django_db(transaction=True)
async def test_on_a_loop_of_its_own(settings):
    """pytest-asyncio runs the loop in the test's thread; look-ups and hooks have others."""
    settings.WS4REDIS_SUBSCRIBER = Counting
    await hears_as_john(await sync_to_async(cookie_of_john)())
