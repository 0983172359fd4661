"""What the handshake finds out about a socket, and that every doubt shuts it out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading

import pytest
from channels.exceptions import DenyConnection
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.utils.functional import SimpleLazyObject

from channels_ws4redis import settings as private_settings
from channels_ws4redis.handshake.admission import Admission, admit
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.serving.making import make_subscriber
from channels_ws4redis.subscriber import RedisSubscriber
from tests.handshake.test_requests import scope

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

ALL = b"subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session&publish-broadcast"


@pytest.fixture
def assign(monkeypatch):
    """Assign to the settings module while the application runs, as legacy code does."""
    return lambda name, value: monkeypatch.setattr(private_settings, f"WS4REDIS_{name}", value)


@pytest.fixture
def no_database(monkeypatch):
    """Fail a test in which the session is looked for."""
    monkeypatch.setattr("channels_ws4redis.handshake.admission.aauthenticate", pytest.fail)


async def admitted(query_string=b"subscribe-broadcast", **kwargs) -> Admission:
    """Admit a socket."""
    asked = scope(query_string=query_string, **kwargs)
    calls = Calls(asked)
    subscriber = await make_subscriber(calls)
    return await admit(asked, subscriber, calls)


def john() -> User:
    """A user who has logged in, as a middleware puts one into the scope."""
    return User(username="john")


async def test_nobody(no_database):
    """A socket that asks for broadcasts alone is admitted without looking for a session."""
    admission = await admitted(b"subscribe-broadcast&publish-broadcast&x=1")
    assert admission.channels == ["broadcast:foo"]
    assert admission.request.path_info == "/ws/foo"
    assert isinstance(admission.request.user, AnonymousUser)
    assert (admission.echo, admission.subprotocol, admission.labels) == (False, None, None)


async def test_an_admission_is_a_value():
    """What was found out once is not changed afterwards."""
    admission = await admitted(b"echo")
    assert admission.echo
    with pytest.raises(dataclasses.FrozenInstanceError):
        admission.echo = False


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["soap", "wamp"], "soap"),
        (["soap", "ws4redis.v1"], "ws4redis.v1"),
    ],
)
async def test_subprotocol(settings, offered, chosen):
    """The package's own protocol is chosen if it is offered, and only then there are labels."""
    settings.WS4REDIS_PREFIX = "demo"
    admission = await admitted(subprotocols=offered)
    assert admission.subprotocol == chosen
    labels = {"demo:broadcast:foo": "broadcast"}
    assert admission.labels == (labels if chosen == "ws4redis.v1" else None)


async def test_labels_under_a_prefix_of_the_subscriber(settings):
    """A subscriber's own prefix is no part of the labels."""

    class Prefixed(RedisSubscriber):
        @staticmethod
        def get_prefix() -> str:
            return "own/"

    settings.WS4REDIS_SUBSCRIBER = Prefixed
    admission = await admitted(subprotocols=["ws4redis.v1"])
    assert admission.labels == {"own/broadcast:foo": "broadcast"}


def loaded(user: User) -> SimpleLazyObject:
    """Return a lazy user of whom somebody has asked already, as Channels' own middleware does."""
    lazy = SimpleLazyObject(lambda: user)
    assert lazy.pk is None
    return lazy


async def test_middleware(no_database):
    """A user and a session that a middleware has put into the scope are taken as they are."""
    admission = await admitted(ALL, user=john(), session={"ws4redis:memberof": ["chatters"]})
    assert admission.channels == ["broadcast:foo", "group:chatters:foo", "user:john:foo"]
    assert admission.request.user.username == "john"


@pytest.mark.parametrize(
    "wrap",
    [lambda user: user, loaded, lambda user: SimpleLazyObject(lambda: user)],
    ids=["plain", "loaded", "lazy"],
)
async def test_a_middlewares_anonymous_user_counts_as_false(wrap):
    """Hooks of legacy refuse strangers by that, whoever has found out that they are."""
    admission = await admitted(user=wrap(AnonymousUser()))
    assert not admission.request.user
    assert isinstance(admission.request.user, AnonymousUser)
    known = await admitted(user=wrap(john()))
    assert known.request.user
    assert known.request.user.username == "john"


async def test_a_lazy_user_of_a_middleware_is_not_loaded_on_the_event_loop():
    """Not at all where nobody asks for it, and otherwise where that may block."""
    threads = []

    def load() -> User:
        threads.append(threading.current_thread())
        return john()

    await admitted(b"subscribe-broadcast", user=SimpleLazyObject(load))
    assert threads == []
    admission = await admitted(b"subscribe-user", user=SimpleLazyObject(load))
    assert admission.channels == ["user:john:foo"]
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_process_request(assign, no_database):
    """WS4REDIS_PROCESS_REQUEST takes the place of the session, and of a middleware."""

    def process(request) -> None:
        request.user = john()

    assign("PROCESS_REQUEST", process)
    for user in ({}, {"user": User(username="mary")}):
        admission = await admitted(b"subscribe-user", **user)
        assert admission.channels == ["user:john:foo"]


def fail(request, channels=()):
    """Fail half way."""
    request.user = john()
    raise LookupError("no such\n thing")


async def test_a_failing_process_request_logs_nobody_in(assign, caplog):
    """Neither the user whom the hook has just set, nor the one of a middleware."""
    assign("PROCESS_REQUEST", fail)
    session = {"ws4redis:memberof": ["chatters"]}
    for identity in ({}, {"user": User(username="mary"), "session": session}):
        admission = await admitted(ALL, **identity)
        assert admission.channels == ["broadcast:foo"]
        assert isinstance(admission.request.user, AnonymousUser)
        assert admission.request.session is None
    assert "WS4REDIS_PROCESS_REQUEST failed for the socket '/ws/foo'" in caplog.text
    assert "LookupError" in caplog.text


@pytest.mark.parametrize(
    "returned", [None, True, 0, "subscribe-broadcast", b"subscribe-broadcast", object()]
)
@pytest.mark.parametrize("identity", [{}, {"user": User(username="mary")}], ids=["", "mary"])
async def test_nonsense_grants_nothing(assign, caplog, returned, identity):
    """What is no collection of flags grants none of them; the log tells for which socket."""
    assign("ALLOWED_CHANNELS", lambda request, channels: returned)
    assert (await admitted(ALL, **identity)).channels == []
    assert "WS4REDIS_ALLOWED_CHANNELS failed for the socket '/ws/foo'" in caplog.text
    assert f"it returned {returned!r} instead of a list" in caplog.text


@pytest.mark.parametrize("identity", [{}, {"user": User(username="mary")}], ids=["", "mary"])
async def test_what_is_no_text_among_the_flags_is_left_out(assign, identity):
    """A hook may write ``condition and flag``; the other flags are granted."""
    assign("ALLOWED_CHANNELS", lambda request, channels: [False, "subscribe-broadcast", None, b"x"])
    assert (await admitted(ALL, **identity)).channels == ["broadcast:foo"]


async def test_a_failing_hook_grants_nothing(assign, caplog):
    """Not even a broadcast."""
    assign("ALLOWED_CHANNELS", fail)
    assert (await admitted(ALL)).channels == []
    assert "WS4REDIS_ALLOWED_CHANNELS failed for the socket '/ws/foo'" in caplog.text


@pytest.mark.parametrize("name", ["PROCESS_REQUEST", "ALLOWED_CHANNELS"])
@pytest.mark.parametrize("refusal", [PermissionDenied("banned"), DenyConnection()])
async def test_refusal(assign, caplog, name, refusal):
    """A hook refuses a socket by Django's exception or by that of Channels."""

    def refuse(*args) -> None:
        raise refusal

    assign(name, refuse)
    with pytest.raises(type(refusal)):
        await admitted()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_the_hook_decides_over_what_was_asked_for(assign):
    """It gets a list of its own, and may grant more than was asked for."""
    asked = []

    def allow(request, channels):
        asked.extend(channels)
        channels.clear()
        return {"subscribe-broadcast"}

    assign("ALLOWED_CHANNELS", allow)
    assert (await admitted(b"publish-broadcast", user=john())).channels == ["broadcast:foo"]
    assert asked == ["publish-broadcast"]


async def test_a_long_facility_is_refused(settings):
    """Bytes count, not characters."""

    def route(facility):
        return {"url_route": {"args": (), "kwargs": {"facility": facility}}}

    assert (await admitted(**route("x" * 255))).channels == ["broadcast:" + "x" * 255]
    with pytest.raises(PermissionDenied, match="256 bytes; WS4REDIS_MAX_FACILITY allows 255"):
        await admitted(**route("ä" * 128))
    settings.WS4REDIS_MAX_FACILITY = 256
    assert await admitted(**route("ä" * 128))


@pytest.mark.parametrize(
    "error", [StopIteration(), SystemExit(3), GeneratorExit(), KeyboardInterrupt()]
)
@pytest.mark.parametrize("hook", ["ALLOWED_CHANNELS", "PROCESS_REQUEST"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_that_raises_what_is_no_error_grants_nothing(
    assign, caplog, error, hook, is_async
):
    """Neither does the handshake hang, nor the process end."""

    def fail(request, *args):
        request.user = john()
        raise error

    async def afail(request, *args):
        fail(request)

    assign(hook, afail if is_async else fail)
    admission = await admitted(b"subscribe-user&subscribe-broadcast", user=john())
    assert admission.channels == (["broadcast:foo"] if hook == "PROCESS_REQUEST" else [])
    assert isinstance(admission.request.user, AnonymousUser) == (hook == "PROCESS_REQUEST")
    assert f"{hook} failed for the socket '/ws/foo'" in caplog.text


async def test_a_hook_that_cancels_itself_grants_nothing(assign):
    """Only the task's own cancellation ends the handshake."""

    async def cancel(request, channels):
        raise asyncio.CancelledError

    assign("ALLOWED_CHANNELS", cancel)
    assert (await admitted()).channels == []


class Lazily:
    """Decides over a flag when it is asked for it."""

    def __init__(self, decide, channels) -> None:
        self._decide, self._channels = decide, channels

    def __iter__(self):
        """Yield the flags that are granted."""
        return (each for each in self._channels if self._decide(each))


class Granted(list):
    """Decides over a flag when it is asked for it, in a list."""

    def __init__(self, decide, channels) -> None:
        super().__init__(channels)
        self._decide = decide

    def __iter__(self):
        """Yield the flags that are granted."""
        return (each for each in super().__iter__() if self._decide(each))


def answering(lazily, decide, *, is_async: bool):
    """Return a hook that grants flags by a function which is called later."""

    async def ahook(request, channels):
        return lazily(decide, channels)

    return ahook if is_async else lambda request, channels: lazily(decide, channels)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("lazily", [filter, Lazily, Granted])
async def test_what_a_hook_decides_late_is_decided_in_a_thread(assign, lazily, is_async):
    """It is code of the project, and may block."""
    threads = set()

    def decide(flag: str) -> bool:
        threads.add(threading.current_thread())
        return flag == "subscribe-broadcast"

    assign("ALLOWED_CHANNELS", answering(lazily, decide, is_async=is_async))
    assert (await admitted(ALL)).channels == ["broadcast:foo"]
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("lazily", [filter, Lazily, Granted])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
async def test_what_a_hook_decides_late_may_fail_late(assign, caplog, lazily, is_async, error):
    """Nothing is granted, and the process goes on."""

    def fail(flag: str) -> bool:
        raise error

    assign("ALLOWED_CHANNELS", answering(lazily, fail, is_async=is_async))
    assert (await admitted(ALL)).channels == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_may_return_a_query(assign, caplog, is_async):
    """Django would not run one on the event loop."""

    def query(decide, channels):
        return User.objects.values_list("username", flat=True)

    assign("ALLOWED_CHANNELS", answering(query, None, is_async=is_async))
    assert (await admitted(ALL)).channels == []
    assert caplog.text == ""


async def test_a_mapping_grants_nothing(assign, caplog):
    """It may have granted what it maps to False."""
    assign("ALLOWED_CHANNELS", lambda request, channels: dict.fromkeys(channels, False))
    assert (await admitted(ALL)).channels == []
    assert "instead of a list of channels" in caplog.text
