"""Policies: which one a facility has, and what a socket may use by it."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import threading
import uuid
from contextlib import suppress
from functools import partial

import pytest
from channels.exceptions import DenyConnection
from channels.layers import get_channel_layer
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404
from django.test import override_settings
from django.urls import register_converter
from django.urls.converters import get_converters
from django.urls.resolvers import RoutePattern
from django.utils.functional import SimpleLazyObject
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from channels_ws4redis.facilities import facility
from channels_ws4redis.handshake import deadlines, policies, remarks
from channels_ws4redis.handshake.admission import Admission, admit
from channels_ws4redis.handshake.granting import PolicyFailedError, grant
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.policies import NO_OPTIONS, Options, Policy
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.serving.making import make_subscriber
from channels_ws4redis.serving.registering import admit_or_release
from channels_ws4redis.subscriber import RedisSubscriber
from tests.handshake.test_requests import scope

#: Django looks at the connections of a worker thread before it runs anything there.
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_policies")]

LISTEN, TALK, USER = "subscribe-broadcast", "publish-broadcast", "subscribe-user"
PUBLISHING = {TALK, "publish-user", "publish-group", "publish-session"}


def on(name: str, *flags: str, **more):
    """Return the scope of a socket on a facility that asks for flags."""
    return scope(f"/ws/{name}", "&".join(flags).encode(), **more)


async def admitted(name: str, *flags: str, **more) -> Admission:
    """Admit a socket."""
    asked = on(name, *(flags or (LISTEN,)), **more)
    calls = Calls(asked)
    return await admit(asked, await make_subscriber(calls), calls)


async def why_refused(name: str, *flags: str, **more) -> str:
    """Return the reason for which a socket is refused, which it has to be."""
    with pytest.raises(PermissionDenied) as caught:
        await admitted(name, *flags, **more)
    assert isinstance(caught.value, PolicyFailedError) == ("has failed" in str(caught.value))
    return str(caught.value)


def policed(route: str, answer, **options) -> None:
    """Make a policy that gives an answer, or raises it."""

    def decide(request, **arguments):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    facility(route, **options)(decide)


# What is granted


async def test_true_grants_what_was_asked_for():
    policed("foo", True)
    assert (await admitted("foo")).channels == ["broadcast:foo"]
    admission = await admitted("foo", LISTEN, USER, user=User(username="john"))
    assert admission.channels == ["broadcast:foo", "user:john:foo"]


async def test_arguments_are_converted():
    """As in a view, and passed by name."""
    got = []

    @facility("orders/<int:pk>/<slug:part>")
    def order(request, part, pk):
        got.append((request.facility, pk, part))
        return True

    await admitted("orders/7/head")
    assert got == [("orders/7/head", 7, "head")]
    assert order.__name__ == "order"


@pytest.mark.parametrize("answer", [None, False, [], set(), [USER], {"unknown"}, [False, None]])
async def test_nothing_refuses(answer):
    """Also a list in which there is nothing of what was asked for."""
    policed("foo", answer)
    assert "the policy tests.handshake.test_policies.policed.<locals>.decide" in await why_refused(
        "foo"
    )


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
async def test_a_list_grants_what_is_in_it(kind):
    """Of what was asked for; what is no flag in it counts for nothing."""
    policed("foo", kind([LISTEN, "subscribe-group", "unknown", False, 7]))
    admission = await admitted("foo", LISTEN, USER, user=User(username="john"))
    assert admission.channels == ["broadcast:foo"]


@pytest.mark.parametrize(
    "answer", [1, 0, "subscribe-broadcast", b"x", {LISTEN: False}, object(), iter([LISTEN])]
)
async def test_nonsense_refuses(answer, caplog):
    """The log names the function, and what it has returned, once."""
    policed("foo", answer)
    assert "has failed" in await why_refused("foo")
    (record,) = caplog.records
    assert "test_policies.policed.<locals>.decide failed for the socket '/ws/foo'" in caplog.text
    assert f"it returned {answer!r} instead of" in str(record.exc_info[1])


async def test_a_generator_grants_what_it_yields():
    @facility("foo")
    def decide(request):
        yield LISTEN

    assert (await admitted("foo")).channels == ["broadcast:foo"]


@pytest.mark.parametrize(
    "error",
    [LookupError("x"), StopIteration(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_fails_refuses(error, is_async, caplog):
    """Neither does the handshake hang, nor the process end; the log has it once."""

    def fail(request):
        raise error

    async def afail(request):
        raise error

    facility("foo")(afail if is_async else fail)
    assert "fail has failed" in await why_refused("foo")
    assert len(caplog.records) == 1
    assert "fail failed for the socket '/ws/foo'; it is refused" in caplog.text


@pytest.mark.parametrize("error", [Http404("x"), PermissionDenied("x"), DenyConnection("x")])
@pytest.mark.parametrize("is_async", [False, True])
async def test_not_there_and_not_allowed_are_the_same(error, is_async, caplog):
    """One exception for both; the reason stands in its text, for the log."""

    async def afail(request):
        raise error

    if is_async:
        facility("foo")(afail)
    else:
        policed("foo", error)
    assert f"refuses it: {type(error).__name__}: x" in await why_refused("foo")
    assert caplog.text == ""


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_policy_that_hangs_refuses(monkeypatch, caplog, is_async):
    """The log names the function."""
    monkeypatch.setattr(deadlines, "POLICY", 0.05)
    go_on = threading.Event()

    def hang(request):
        go_on.wait()

    async def ahang(request):
        await asyncio.Event().wait()

    facility("foo")(ahang if is_async else hang)
    try:
        assert "has failed" in await why_refused("foo")
    finally:
        go_on.set()
    assert "hang took longer than 0.05 s for the socket '/ws/foo'; it is refused" in caplog.text


async def test_a_policy_that_takes_no_notice_of_its_end_refuses(monkeypatch, caplog):
    """Nobody waits for it, be it that it goes on, or that it answers too late."""
    monkeypatch.setattr(deadlines, "POLICY", 0.05)
    go_on = asyncio.Event()

    async def stubborn(request):
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()
        return True

    async def late(request):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return True

    facility("stubborn")(stubborn)
    facility("late")(late)
    try:
        for name in ("stubborn", "late"):
            async with asyncio.timeout(10):
                assert "has failed" in await why_refused(name)
    finally:
        go_on.set()
    assert caplog.text.count("took longer than 0.05 s") == 2


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_policy_that_is_asked_late(monkeypatch, caplog, is_async):
    """It is not to blame: what came before has taken the time of the handshake."""
    monkeypatch.setattr(deadlines, "HANDSHAKE", 0.15)
    go_on = threading.Event()

    async def ahang(request):
        await asyncio.Event().wait()

    facility("foo")(ahang if is_async else lambda request: go_on.wait())
    try:
        with pytest.raises(
            BusyError,
            match=r"all else has left 0\.\d s of its handshake to the policy .*test_policies",
        ):
            await admitted("foo")
    finally:
        go_on.set()
    assert caplog.text == ""


class Released(RedisSubscriber):
    """Tells when it is released."""

    told = threading.Event()

    def release(self) -> None:
        """Tell it."""
        self.told.set()


@pytest.mark.server  # before a policy is asked, the process hears the control channel
async def test_a_client_does_not_wait_for_a_policy_that_hangs(monkeypatch, settings):
    """Its subscriber is released once the policy has ended, and the client is told before."""
    monkeypatch.setattr(deadlines, "POLICY", 0.05)
    settings.WS4REDIS_SUBSCRIBER = Released
    go_on = threading.Event()
    facility("foo")(lambda request: go_on.wait())
    asked = on("foo", LISTEN)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(PolicyFailedError):
                await admit_or_release(asked, Calls(asked), get_channel_layer())
        assert not Released.told.is_set()
    finally:
        go_on.set()
    assert await asyncio.to_thread(Released.told.wait, 10)


async def test_clients_publish_with_what_the_option_names(caplog, monkeypatch):
    """Whatever the function says; the log tells once of a flag that it grants in vain."""
    made = remarks.Remarks()
    monkeypatch.setattr(remarks, "_remarks", lambda: made)
    policed("foo", True)
    policed("bar", [LISTEN, TALK])
    policed("baz", [LISTEN, TALK], publish=[TALK])
    assert await flags_of("foo", LISTEN, TALK) == [LISTEN]
    assert caplog.text == ""
    for _ in range(3):
        assert await flags_of("bar", LISTEN, TALK) == [LISTEN]
    assert len(caplog.records) == 1
    assert "grants publish-broadcast, which its option publish does not name" in caplog.text
    assert await flags_of("baz", LISTEN, TALK) == [LISTEN, TALK]
    assert "grants none of the flags it asks for" in await why_refused("foo", TALK)


async def test_a_policy_that_returns_what_is_no_flag(caplog, monkeypatch):
    """It is granted nothing by that, and the log tells once which flag was meant."""
    made = remarks.Remarks()
    monkeypatch.setattr(remarks, "_remarks", lambda: made)
    policed("foo", [LISTEN, "echo", "subscribe-usr", False])
    policed("bar", {"broadcast"})
    for _ in range(2):
        assert await flags_of("foo", LISTEN, USER) == [LISTEN]
        assert "grants none of the flags it asks for" in await why_refused("bar", LISTEN)
    of_flag, of_audience = caplog.messages
    assert "grants 'subscribe-usr', which is no flag and has no effect" in of_flag
    assert "did you mean 'subscribe-user'?" in of_flag
    assert "grants 'broadcast', which is no flag" in of_audience
    assert "did you mean '" in of_audience


async def flags_of(name: str, *flags: str, **more) -> list[str]:
    """Return the flags that a socket is granted."""
    asked = on(name, *flags, **more)
    request = WebSocketRequest(asked)
    granted = await grant(request, flags, PUBLISHING, FLAGS, Calls(asked))
    return list(granted.flags)


async def test_a_socket_that_asks_for_nothing_is_asked_about_too():
    """It is let in where the policy grants something, as without a policy."""
    policed("foo", True)
    policed("bar", [LISTEN])
    policed("baz", False)
    assert (await admitted("foo", "echo")).channels == []
    assert (await admitted("bar", "echo")).channels == []
    assert await why_refused("baz", "echo")


# Beside the hooks of legacy


async def test_both_have_to_grant(settings):
    """The hook first; the policy decides over what it has left, also over what it has added."""
    policed("foo", [LISTEN, USER])
    settings.WS4REDIS_ALLOWED_CHANNELS = lambda request, channels: [USER, "subscribe-group"]
    assert await flags_of("foo", LISTEN) == [USER]
    settings.WS4REDIS_ALLOWED_CHANNELS = lambda request, channels: []
    assert await flags_of("foo", LISTEN) == []
    policed("bar", False)
    with pytest.raises(PermissionDenied):
        await flags_of("bar", LISTEN)


async def test_a_hook_refuses_before_the_policy_is_asked(settings):
    asked = []

    def refuse(request, channels):
        raise PermissionDenied("not you")

    facility("foo")(asked.append)
    settings.WS4REDIS_ALLOWED_CHANNELS = refuse
    assert await why_refused("foo") == "not you"
    assert asked == []


@pytest.mark.parametrize("hook", ["PROCESS_REQUEST", "ALLOWED_CHANNELS"])
async def test_a_hook_that_changes_the_facility_changes_the_policy(settings, hook):
    """What the socket joins is what the policy is asked about."""

    def move(request, channels=()):
        request.facility = "secret"
        return channels

    policed("foo", True)
    setattr(settings, f"WS4REDIS_{hook}", move)
    assert (await admitted("foo")).channels == ["broadcast:secret"]
    policed("secret", False)
    assert "refuses it" in await why_refused("foo")


async def test_clients_may_be_kept_from_publishing_without_a_policy(settings):
    """Whatever the hook grants; a policy still says for itself."""
    policed("foo", True, publish=[TALK])
    assert await flags_of("bar", LISTEN, TALK) == [LISTEN, TALK]
    settings.WS4REDIS_ALLOW_PUBLISH = False
    assert await flags_of("bar", LISTEN, TALK) == [LISTEN]
    assert await flags_of("foo", LISTEN, TALK) == [LISTEN, TALK]
    settings.WS4REDIS_ALLOWED_CHANNELS = lambda request, channels: [LISTEN, TALK]
    assert await flags_of("bar", LISTEN, TALK) == [LISTEN]


# Which facilities


async def test_the_first_route_that_matches_decides():
    """As among Django's URL patterns."""
    policed("orders/<int:pk>", True)
    policed("orders/<str:name>", False)
    policed("<path:rest>", True)
    assert await admitted("orders/7")
    assert await why_refused("orders/x")
    assert await admitted("other/x")


@pytest.mark.parametrize("name", ["orders", "orders/", "orders/7/", "/orders/7", "Orders/7", ""])
async def test_a_route_is_matched_with_the_whole_facility(name):
    """Slashes and case count."""
    policed("orders/<int:pk>", False)
    assert policies.match(name) is None


async def test_strict_refuses_what_no_policy_names(settings):
    """The user is not even looked for; without it, all is as in legacy."""
    policed("foo", True)
    assert (await admitted("bar")).channels == ["broadcast:bar"]
    settings.WS4REDIS_FACILITIES = "strict"
    settings.WS4REDIS_PROCESS_REQUEST = pytest.fail
    assert "no policy names its facility" in await why_refused("bar")
    settings.WS4REDIS_PROCESS_REQUEST = None
    assert await admitted("foo")


@pytest.mark.parametrize("name", ["orders/007", "orders/00", "at/MMXX-1"])
async def test_another_spelling_is_refused(name):
    """Its object would be that of another facility; no publisher knows it by this name."""
    policed("orders/<int:pk>", True)
    policed("at/<upper:what>", True)
    assert "is spelt otherwise than the policy" in await why_refused(name)
    assert await admitted("orders/7")
    assert await admitted("at/mmxx-1")


class Upper:
    """Does not tell capital letters from small ones."""

    regex = "[A-Za-z0-9-]+"

    def to_python(self, value: str) -> str:
        """Return small letters."""
        return value.lower()

    def to_url(self, value: str) -> str:
        """Return them."""
        return value


class Digits:
    """Takes digits of all scripts, and hands on a number."""

    regex = r"\d+"

    def to_python(self, value: str) -> int:
        """Return the number."""
        return int(value)

    def to_url(self, value: int) -> int:
        """Return the number, and not its text."""
        return value


class Even(Digits):
    """Takes even numbers only."""

    def to_python(self, value: str) -> int:
        """Return the number if it is even."""
        if int(value) % 2:
            raise ValueError
        return int(value)


class Anything:
    """Takes anything but a line break, or so it seems."""

    regex = ".*"

    def to_python(self, value: str) -> str:
        """Return the value without spaces around it."""
        return value.strip()

    def to_url(self, value: str) -> str:
        """Return the value."""
        return value


class Failing(Digits):
    """Asks for what is not there."""

    def to_python(self, value: str) -> int:
        """Fail."""
        raise LookupError(value)


class OneWay(Digits):
    """Reads numbers, and cannot write them."""

    def to_url(self, value: int) -> str:
        """Fail as a converter does that does not take a value."""
        raise ValueError


class Exiting(Digits):
    """Calls what ends a process."""

    def to_python(self, value: str) -> int:
        """Do so for an odd number."""
        return sys.exit(3) if int(value) % 2 else int(value)

    def to_url(self, value: int) -> str:
        """Do so."""
        sys.exit(4)


for _name, _converter in {
    "upper": Upper, "digits": Digits, "even": Even, "anything": Anything, "failing": Failing,
    "one-way": OneWay, "exiting": Exiting,
}.items():  # fmt: skip
    if _name not in get_converters():
        register_converter(_converter, _name)


async def test_a_converter_that_fails_refuses(caplog):
    """The log has its exception; a value that it does not take is no match."""
    policed("orders/<failing:x>", True)
    policed("half/<even:x>", False)
    assert "a converter in the route of a policy has failed" in await why_refused("orders/7")
    assert "LookupError: 7" in caplog.text
    assert await admitted("half/7")
    assert await why_refused("half/8")


@pytest.mark.parametrize("number", [7, 8])
async def test_a_converter_that_exits_refuses(caplog, number):
    """The process goes on, whichever method it is."""
    policed("orders/<exiting:x>", True)
    refusal = await why_refused(f"orders/{number}")
    assert "a converter in the route of a policy has failed" in refusal
    assert "a converter raised SystemExit" in caplog.text


async def test_a_converter_that_cannot_write_refuses():
    """What it reads is a match, and not a facility that no policy names."""
    policed("orders/<one-way:x>", True)
    assert "spells its arguments" in await why_refused("orders/7")
    assert policies.is_misspelt("orders/7")


TEXTS = st.text(st.sampled_from("07aA/-_ \n\r\u0667\u06f7é:%\0"), max_size=6)
CONVERTERS = ["int", "str", "slug", "path", "uuid", "upper", "digits", "even", "anything"]


@given(st.sampled_from(CONVERTERS), TEXTS, TEXTS)
@example("digits", "7", "\u0667")
@example("int", "0", "00")
@example("path", "a", "a\n")
@example("anything", "a", "a ")
def test_no_two_facilities_have_the_same_arguments(converter, one, other):
    """Those that are let in: a policy that is asked about one answers for no other."""
    policy = Policy.of(f"x/<{converter}:it>", lambda request, it: True, NO_OPTIONS)
    first, second = policy.match(f"x/{one}"), policy.match(f"x/{other}")
    if first and second and first.is_canonical and second.is_canonical and one != other:
        assert first.arguments != second.arguments
    for match in filter(None, (first, second)):
        # What another spelling stands for is let in.
        value = get_converters()[converter].to_url(match.arguments["it"])
        again = policy.match(f"x/{value}")
        assert again is None or again.is_canonical or converter == "anything"


@given(st.sampled_from(CONVERTERS), TEXTS, st.sampled_from(["", "/", "/tail", "\n"]))
def test_routes_match_as_in_django(converter, text, tail):
    """But for line breaks, which stand for themselves everywhere."""
    route = f"x/<{converter}:it>{tail.strip()}"
    ours = Policy.of(route, lambda request, it: True, NO_OPTIONS).match(f"x/{text}{tail}")
    theirs = RoutePattern(route, is_endpoint=True).match(f"x/{text}{tail}")
    if theirs is not None:
        assert ours is not None
        assert ours.arguments == theirs[2]
    elif ours is not None:
        assert "\n" in text + tail


def test_a_line_break_leads_out_of_no_policy():
    """Django's ``path`` takes none, and the rest of the facility would be free then."""
    policed("private/<path:rest>", False)
    assert policies.match("private/a\nb") is not None
    assert policies.match("private/a\n") is not None


@given(st.uuids(), st.booleans())
def test_uuids(value: uuid.UUID, upper: bool):
    """Capital letters are no match, as in Django."""
    policy = Policy.of("x/<uuid:it>", lambda request, it: True, NO_OPTIONS)
    text = str(value).upper() if upper else str(value)
    match = policy.match(f"x/{text}")
    assert (match is not None) == (text == str(value))
    assert match is None or (match.is_canonical and match.arguments == {"it": value})


# Who it is


@pytest.fixture
def no_database(monkeypatch):
    """Fail a test in which the session is looked for."""
    monkeypatch.setattr("channels_ws4redis.handshake.admission.aauthenticate", pytest.fail)
    monkeypatch.setattr("channels_ws4redis.handshake.sessions.authenticate", pytest.fail)


COOKIE = [("cookie", "sessionid=abcdefghijklmnopqrstuvwxyz012345")]


async def test_a_public_policy_asks_no_database(no_database):
    """The user is looked at only if the function does."""
    policed("foo", True)
    assert (await admitted("foo", headers=COOKIE)).channels == ["broadcast:foo"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("flags", [[LISTEN], [LISTEN, USER]])
async def test_the_user_is_looked_up_once_and_in_a_thread(monkeypatch, settings, is_async, flags):
    """For a coroutine before it begins."""
    looked_up = []

    def authenticate(request):
        looked_up.append(threading.current_thread())
        request.session, request.user = {"key": "value"}, User(username="john")

    settings.SESSION_ENGINE = "tests.site.slow_sessions"  # or it is looked up with others
    monkeypatch.setattr("channels_ws4redis.handshake.together.authenticate", authenticate)
    monkeypatch.setattr("channels_ws4redis.handshake.sessions.authenticate", authenticate)

    def decide(request):
        return request.user.username == "john" and request.session["key"] == "value"

    async def adecide(request):
        assert (await request.auser()).username == "john"
        return decide(request)

    facility("foo")(adecide if is_async else decide)
    assert await admitted("foo", *flags, headers=COOKIE)
    (thread,) = looked_up
    assert thread is not threading.main_thread()


async def test_nobody_counts_as_false(no_database):
    """As for the hooks of legacy; without a cookie there is no session either."""
    seen = []

    @facility("foo")
    def decide(request):
        seen.append((request.user.is_authenticated, bool(request.user), request.session))
        return True

    await admitted("foo")
    assert seen == [(False, False, None)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_lazy_user_of_a_middleware_is_loaded_in_a_thread(is_async):
    threads = []

    def load() -> User:
        threads.append(threading.current_thread())
        return User(username="john")

    def decide(request):
        return request.user.username == "john"

    async def adecide(request):
        return decide(request)

    facility("foo")(adecide if is_async else decide)
    assert await admitted("foo", user=SimpleLazyObject(load))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


# Routes and options that make no sense


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(facility, lambda request: True), "for its route; write"),
        (partial(facility, b"foo"), "for its route; write"),
        (partial(facility, "foo", history=0), "history=0 is no whole number from 1 to"),
        (partial(facility, "foo", history=True), "history=True"),
        (partial(facility, "foo", expire=-1), "expire=-1"),
        (partial(facility, "foo", expire=10**10), "from 0 to 1000000000"),
        (partial(facility, "foo", max_message_bytes="1"), "max_message_bytes='1'"),
        (partial(facility, "foo", replay=True), "replay=True is none of 'last'"),
        (partial(facility, "foo", replay=0), "replay=0"),
        (partial(facility, "foo", replay="some"), "replay='some'"),
        (partial(facility, "foo", history_expire=0), "history_expire=0"),
        (partial(facility, "foo", keep=None), "keep=None"),
        (partial(facility, "foo", keep=False, history=5), "keep=False keeps nothing"),
        (partial(facility, "foo", keep=False, expire=5), "keep=False keeps nothing"),
        (partial(facility, "foo", keep=False, history_expire=5), "keep=False keeps nothing"),
        (partial(facility, "foo", publish=TALK), r"write publish=\['publish-broadcast'\]"),
        (partial(facility, "foo", publish=[7]), "is no list of flags"),
        (partial(facility, "foo", publish=True), "is no list of flags"),
        (lambda: facility("x/<nothing:pk>")(lambda request, pk: True), "'x/<nothing:pk>'"),
        (lambda: facility("x/<int:pk>")(lambda request: True), r"with \(request, pk\)"),
        (lambda: facility("x")(lambda request, pk: True), r"with \(request\)"),
        (lambda: facility("x")("tests.nowhere"), "is no function"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(make, told):
    """When the module is imported, and not at a handshake."""
    with pytest.raises(ImproperlyConfigured, match=told):
        make()
    assert policies.policies == []


def test_options_are_a_value():
    policed("foo", True, history=5, publish=[TALK], replay="none")
    options = policies.options_of("foo")
    assert options == Options(5, None, None, True, "none", {TALK}, None)
    with pytest.raises(AttributeError):
        options.history = 6
    assert policies.options_of("bar") is NO_OPTIONS
    assert policies.options_of(None) is NO_OPTIONS


def test_what_is_remembered_is_bounded():
    """And forgotten when there is another policy."""
    policed("a/<int:x>", True, history=5)
    for number in range(2 * policies.REMEMBERED):
        assert policies.options_of(f"a/{number}").history == 5
    assert policies._remembered.cache_info().currsize == policies.REMEMBERED
    assert policies.options_of("b") is NO_OPTIONS
    policed("b", True, history=7)
    assert policies.options_of("b").history == 7


async def test_what_strangers_ask_for_is_not_remembered():
    """They choose the facility, and would drive out what publishers ask for."""
    policed("a/<int:x>", True)
    for number in range(20):
        await admitted(f"a/{number}")
    assert policies._remembered.cache_info().currsize == 0


# The model

ROUTES = {
    "b": lambda name: name == "b",
    "a/<int:n>": lambda name: re.fullmatch("a/[0-9]+", name) is not None,
    "a/<str:s>": lambda name: name[:2] == "a/" and name.count("/") == 1 and len(name) > 2,
    "<path:p>": lambda name: name != "",
}
NAMES = ["", "b", "b/", "a/", "a/7", "a/007", "a/x", "a/x/y"]
USERS = {
    "nobody": AnonymousUser(),
    "john": User(username="john"),
    "mary": User(username="mary", is_staff=True),
}
FLAGS = [LISTEN, USER, TALK, "publish-user"]
SOME = st.lists(st.sampled_from(FLAGS), unique=True)
ANSWERS = st.sampled_from([True, False, None, Http404(), PermissionDenied(), LookupError()]) | SOME


class Said:
    """What a policy says to each kind of user."""

    def __init__(self, route: str, answers, publish) -> None:
        self.route = route
        self.answers = dict(zip(USERS, answers, strict=True))
        self.publish = publish

    def __repr__(self) -> str:
        return f"{self.route}: {self.answers}, publish={self.publish}"

    def make(self) -> None:
        """Make the policy."""

        def decide(request, **arguments):
            answer = self.answers[request.user.get_username() or "nobody"]
            if isinstance(answer, Exception):
                raise answer
            return answer

        facility(self.route, publish=self.publish)(decide)


SAID = st.builds(Said, st.sampled_from(sorted(ROUTES)), st.tuples(*[ANSWERS] * 3), SOME)


def expected(said: list[Said], name: str, user: str, flags: list[str], strict: bool, hook):
    """Return the flags that a socket gets, None if it is refused: what the manual says."""
    policy = next((each for each in said if ROUTES[each.route](name)), None)
    if policy is None and strict:
        return None
    if policy is not None and policy.route == "a/<int:n>" and name == "a/007":
        return None
    left = flags if hook is None else hook
    if policy is None:
        return left
    answer = policy.answers[user]
    if answer is None or answer is False or isinstance(answer, Exception):
        return None
    got = [
        flag
        for flag in left
        if (answer is True or flag in answer)
        and (flag.startswith("subscribe-") or flag in policy.publish)
    ]
    return None if left and not got else got


async def outcome(name: str, user: str, flags: list[str]):
    """Return what `expected` does, from the package."""
    try:
        return await flags_of(name, *flags, user=USERS[user])
    except PermissionDenied:
        return None


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(SAID, max_size=3),
    st.sampled_from(NAMES),
    st.sampled_from(sorted(USERS)),
    SOME,
    st.booleans(),
    st.none() | SOME,
)
def test_the_policies_of_a_model(said, name, user, flags, strict, hook):
    """Routes, kinds of users and flags: a socket gets what the manual says, and nothing else."""
    policies.policies.clear()
    for each in said:
        each.make()
    with override_settings(
        WS4REDIS_FACILITIES="strict" if strict else "open",
        WS4REDIS_ALLOWED_CHANNELS=None if hook is None else lambda request, channels: hook,
    ):
        found = asyncio.run(outcome(name, user, flags))
    assert found == expected(said, name, user, flags, strict, hook)


def test_the_decorator_hands_on_its_function():
    assert inspect.isfunction(facility("foo")(lambda request: True))


@pytest.mark.parametrize("has_middleware", [False, True])
async def test_a_policy_sees_no_forged_session(settings, has_middleware):
    """Its key is made up, also where a middleware has found the session."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    keys = []

    @facility("foo")
    def decide(request):
        keys.append(request.session.session_key)
        return True

    middleware = {"session": SessionStore("forged-session"), "user": AnonymousUser()}
    cookie = {"headers": [("cookie", "sessionid=forged-session")]}
    await admitted("foo", **(middleware if has_middleware else cookie))
    assert keys == [None]
