"""What the log says of a socket that hears less than its page asks for, and how often."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from channels_ws4redis.facilities import facility
from channels_ws4redis.handshake import remarks
from channels_ws4redis.handshake.remarks import BURST, PERIOD, REMEMBERED, Remarks
from channels_ws4redis.subscriber import RedisSubscriber
from tests.handshake.test_admission import admitted

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """Begin as a process does."""
    made = Remarks()
    monkeypatch.setattr(remarks, "_remarks", lambda: made)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("subscribe-users", "subscribe-user"),
        ("Subscribe-Groups", "subscribe-group"),
        ("publish-brodcast", "publish-broadcast"),
        ("subscribe-", "subscribe-user"),
        ("subscribe-server", "subscribe-user"),
    ],
)
async def test_a_flag_that_is_none_is_told_once(caplog, flag, meant):
    """With the one that was meant, and all that there are; the others are granted."""
    for _ in range(3):
        asked = f"subscribe-broadcast&{flag}=1&ts=5&subscriber=x".encode()
        assert (await admitted(asked)).channels == ["broadcast:foo"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"'/ws/foo' asks for '{flag.lower()}', which is no flag" in record.message
    assert f"did you mean '{meant}'? There are publish-broadcast, " in record.message


class Server(RedisSubscriber):
    """Knows one more flag."""

    subscription_channels = [*RedisSubscriber.subscription_channels, "subscribe-server"]  # noqa: RUF012 # as projects write it


async def test_flags_of_a_subscriber_are_known(settings, caplog):
    """What the project's own subscriber knows is a flag, and may be the one that was meant."""
    settings.WS4REDIS_SUBSCRIBER = Server
    await admitted(b"subscribe-server")
    assert caplog.text == ""
    await admitted(b"subscribe-servers")
    assert "did you mean 'subscribe-server'?" in caplog.text


async def test_strangers_do_not_fill_the_log(caplog):
    """Neither by many names, nor by long ones, nor by ones that are more than one line."""
    asked = "&".join(f"subscribe-{number}%0Ax{'y' * 5000}" for number in range(100))
    await admitted(asked.encode())
    for number in range(100):
        await admitted(f"subscribe-x{number}".encode())
    assert len(caplog.records) == BURST
    assert all(
        len(record.message) < 1000 and "\n" not in record.message for record in caplog.records
    )


def test_remarks_are_made_again_after_a_while(monkeypatch):
    """Others, as soon as few have been made; the same when too many are remembered."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    made = Remarks()
    assert [made.is_due(str(number)) for number in range(BURST + 1)] == [True] * BURST + [False]
    now[0] += PERIOD
    assert made.is_due(str(BURST))
    assert not made.is_due("0")
    for number in range(REMEMBERED):
        now[0] += PERIOD
        assert made.is_due(f"x{number}")
    assert made.is_due("0")
    assert len(made._made) == REMEMBERED


ALL = b"subscribe-user&subscribe-group&subscribe-session&subscribe-broadcast"


async def test_a_visitor_who_is_not_logged_in_is_told_of_during_development(settings, caplog):
    """Each flag by which the socket hears nothing, with the reason, once."""
    settings.DEBUG = True
    for _ in range(2):
        assert (await admitted(ALL)).channels == ["broadcast:foo"]
    assert len(caplog.records) == 3
    for flag, reason in (
        ("user", "nobody is logged in; log in before"),
        ("group", "its session has no auth groups; those of a user"),
        ("session", "it has no session; have a view save one"),
    ):
        assert f"'/ws/foo' hears nothing by subscribe-{flag}: {reason}" in caplog.text


async def test_nothing_is_told_of_whoever_hears_what_was_asked_for(settings, caplog):
    """Nor in production."""
    settings.DEBUG, settings.WS4REDIS_PREFIX = True, "site"
    session = {"ws4redis:memberof": ["chatters"]}
    await admitted(b"subscribe-user&subscribe-group", user=User(username="john"), session=session)
    settings.DEBUG = False
    await admitted(ALL)
    settings.WS4REDIS_ALLOWED_CHANNELS = lambda request, channels: []
    await admitted(ALL)
    remarks.tell_of_unpublished("/ws/foo")
    assert caplog.text == ""


HOOK = "the function in WS4REDIS_ALLOWED_CHANNELS"
NAMED = f"the policy {__name__}.policy.<locals>.write.<locals>.function"


@pytest.fixture
def policy(no_policies):
    """Have a policy grant so much on the facility of the sockets."""

    def write(answer, publish=()):
        @facility("foo", publish=publish)
        def function(request):
            return answer

    return write


@pytest.mark.parametrize(
    ("hook", "answer", "publish", "flag", "reason"),
    [
        pytest.param(
            None,
            True,
            (),
            "publish-broadcast",
            f"the option publish of {NAMED} does not name it",
            id="the option",
        ),
        pytest.param(
            None,
            ["subscribe-broadcast"],
            ["publish-broadcast"],
            "publish-broadcast",
            f"{NAMED} does not grant it",
            id="the function",
        ),
        pytest.param(
            None,
            ["publish-broadcast"],
            ["publish-broadcast"],
            "subscribe-broadcast",
            f"{NAMED} does not grant it",
            id="the function, of listening",
        ),
        pytest.param(
            ["subscribe-broadcast"],
            True,
            ["publish-broadcast"],
            "publish-broadcast",
            f"{HOOK} or {NAMED} does not grant it",
            id="hook or function",
        ),
        pytest.param(
            ["publish-broadcast"],
            None,
            (),
            "subscribe-broadcast",
            f"{HOOK} does not grant it",
            id="the hook",
        ),
        pytest.param(
            None,
            None,
            (),
            "publish-broadcast",
            "WS4REDIS_ALLOW_PUBLISH is False, and no policy names the facility",
            id="the setting",
        ),
    ],
)
async def test_a_flag_that_is_not_granted_is_told_of_during_development(
    settings, caplog, policy, hook, answer, publish, flag, reason
):
    """Once, with what has withheld it."""
    settings.DEBUG, settings.WS4REDIS_ALLOW_PUBLISH = True, reason[:8] != "WS4REDIS"
    if hook is not None:
        settings.WS4REDIS_ALLOWED_CHANNELS = lambda request, channels: hook
    if answer is not None:
        policy(answer, publish)
    for _ in range(2):
        await admitted(b"subscribe-broadcast&publish-broadcast")
    (record,) = (record for record in caplog.records if "not granted " in record.message)
    assert record.message == f"The socket '/ws/foo' is not granted {flag}: {reason}"


def test_messages_that_nobody_gets_are_told_of_during_development(settings, caplog):
    """Once for each path."""
    settings.DEBUG = True
    for path in ("/ws/foo", "/ws/foo", "/ws/bar"):
        remarks.tell_of_unpublished(path)
    assert [record.args for record in caplog.records] == [("'/ws/foo'",), ("'/ws/bar'",)]
    assert "sends what nobody gets: it has no flag such as publish-broadcast" in caplog.text
