"""Policies, limits and orders together: whoever is asked at the handshake is asked again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.sessions.backends.signed_cookies import SessionStore

from channels_ws4redis import control
from channels_ws4redis.facilities import facility
from channels_ws4redis.handshake.refusals import counted
from channels_ws4redis.protocol import codes
from channels_ws4redis.routing import router
from tests.communicators import opening, publish

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

PATIENCE = 30
PATH = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"


class Policy:
    """A policy that answers what the test says, or does what it says."""

    def __init__(self) -> None:
        self.answer: Any = True
        self.asked = 0

    def __call__(self, request) -> Any:
        """Answer."""
        self.asked += 1
        return self.answer(request) if callable(self.answer) else self.answer


@pytest.fixture
def policy(no_policies, redis_url) -> Policy:
    """The policy of one facility."""
    made = Policy()
    facility("foo", publish=["publish-broadcast"])(made)
    return made


@pytest.fixture
async def connect(settings, redis_url) -> AsyncIterator[Any]:
    """Open sockets, and close them in the end."""
    settings.WS4REDIS_CLOSE_WINDOW = 0
    async with opening(PATH) as opened:
        yield opened


def fail(request) -> None:
    """Fail as a policy whose database has gone does."""
    raise LookupError("no such thing")


async def test_a_policy_that_refuses_now_ends_the_socket(connect, policy):
    """For good; it is asked by the refresh and not before."""
    client = await connect()
    assert policy.asked == 1
    policy.answer = False
    await publish("still there")
    assert await client.receive_from(PATIENCE) == "still there"
    await control.arefresh(facility="foo")
    assert await client.receive_output(PATIENCE) == {
        "type": "websocket.close",
        "code": codes.REVOKED,
    }
    assert policy.asked == 2


#: What a middleware of the project notes of a socket, such as its site.
site: ContextVar[str] = ContextVar("site", default="")


async def noting(scope, receive, send) -> None:
    """Note the site of a socket, as a middleware around the router does."""
    site.set(scope["query_string"].decode().partition("site=")[2])
    await router(scope, receive, send)


async def test_each_is_asked_about_in_its_own_context(connect, policy):
    """What a middleware has noted of one socket counts for no other, nor what a policy notes."""
    asked = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(request) -> bool:
        asked.append((request.GET["site"], site.get()))
        site.set("left behind")
        if len(asked) == 6:
            loop.call_soon_threadsafe(done.set)
        return True

    policy.answer = note
    for name in ("one", "other", "one"):
        await connect(f"{PATH}&site={name}", noting)
    await control.arefresh(facility="foo")
    await asyncio.wait_for(done.wait(), PATIENCE)
    assert sorted(asked) == [("one", "one")] * 4 + [("other", "other")] * 2


async def test_a_policy_that_is_no_more_ends_the_socket_where_one_has_to_be(connect, settings):
    """The setting counts for sockets that are open, too."""
    client = await connect()
    settings.WS4REDIS_FACILITIES = "strict"
    await control.arefresh(facility="foo")
    assert (await client.receive_output(PATIENCE))["code"] == codes.REVOKED


async def test_a_policy_that_fails_has_the_client_come_back(connect, policy, caplog):
    """It says nothing about what the client may hear. The log tells of it with the exception."""
    client = await connect()
    policy.answer = fail
    await control.arefresh(facility="foo")
    assert (await client.receive_output(PATIENCE))["code"] == codes.TRY_AGAIN_LATER
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_policy_that_grants_less_takes_the_rest(connect, policy):
    """The socket stays, and hears; what its client sends is published no more."""
    client = await connect()
    await client.send_to(text_data="mine")
    assert await client.receive_from(PATIENCE) == "mine"
    policy.answer = ["subscribe-broadcast"]
    await control.arefresh(facility="foo")
    while policy.asked < 2:
        await publish("waits")
        assert await client.receive_from(PATIENCE) == "waits"
    await publish("decided")
    assert await client.receive_from(PATIENCE) == "decided"
    await client.send_to(text_data="mine, too")
    await publish("to all")
    assert await client.receive_from(PATIENCE) == "to all"


async def test_a_policy_may_look_at_the_user_only_sometimes(connect, policy, settings):
    """Whom nobody has looked at is not taken for somebody else, neither way."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    session = SessionStore()
    session["theme"] = "dark"
    session.save()
    cookie = f"{settings.SESSION_COOKIE_NAME}={session.session_key}".encode()

    def look(request) -> bool:
        return request.session["theme"] == "dark" and request.user.is_anonymous

    client = await connect(headers=[(b"cookie", cookie)])
    for answer in (look, True, look):
        policy.answer, asked = answer, policy.asked
        await control.arefresh(facility="foo")
        while policy.asked == asked:
            await publish("waits")
            assert await client.receive_from(PATIENCE) == "waits"
        await publish("after")
        assert await client.receive_from(PATIENCE) == "after"


async def test_a_refusal_is_told_once(policy, settings, caplog):
    """By a limit as by a policy: in one line, which names what to look at, and in its count."""
    policy.answer = False
    settings.WS4REDIS_MAX_FACILITY = 10
    caplog.set_level(logging.WARNING)
    counted().clear()
    for path in ("/ws/foo", "/ws/too-long-for-this"):
        client = WebsocketCommunicator(router, f"{path}?subscribe-broadcast")
        assert not (await client.connect(PATIENCE))[0]
    of_policy, of_limit = (record.getMessage() for record in caplog.records)
    assert of_policy.endswith("the policy tests.test_asking_again.Policy refuses it")
    assert "WS4REDIS_MAX_FACILITY allows 10" in of_limit
    assert counted()["policy"] == 1
    assert counted().total() == 2


async def test_a_flood_of_refusals_by_a_policy_is_told_in_few_lines(policy, caplog):
    """Like any other."""
    policy.answer = False
    for _ in range(30):
        client = WebsocketCommunicator(router, PATH)
        assert not (await client.connect(PATIENCE))[0]
    assert caplog.text.count("refuses it") == 20
