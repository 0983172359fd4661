"""How much one client may have of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest
from django.contrib.auth.models import User
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.handshake import limits as module
from channels_ws4redis.handshake import remarks
from channels_ws4redis.handshake.addresses import Proxy
from channels_ws4redis.handshake.limits import CHANNEL_BYTES, Limits, Place, Room, limits
from channels_ws4redis.handshake.policies import NO_OPTIONS, Options
from channels_ws4redis.handshake.refusals import BusyError

STRANGER, OTHER, NGINX = "198.51.100.7", "198.51.100.8", Proxy("127.0.0.1")
JOHN, MARY = (User, 1), (User, 2)


class Clock:
    """The time, which stands still but for those who wait."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Note for how long somebody would wait; they all wait side by side."""
        self.waits.append(seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock that the limits look at."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "asyncio", clock)
    return clock


class Client:
    """One more socket of a client, on some facility."""

    def __init__(self, whom: Hashable, facility: str, options: Options) -> None:
        self._place, self._facility = Place(whom, options), facility
        self._place.take()
        self.leave = self._place.leave

    async def publish(self, size: int, channels: int) -> None:
        """Publish to so many audiences of the facility."""
        names = [f"{audience}:{self._facility}" for audience in range(channels)]
        await self._place.publish(size, names)


def place(whom: Hashable, facility: str = "room", options: Options = NO_OPTIONS) -> Client:
    """Return one more socket."""
    return Client(whom, facility, options)


# Sockets


@pytest.mark.parametrize(
    ("setting", "first", "others"),
    [
        ("WS4REDIS_MAX_SOCKETS_PER_ADDRESS", STRANGER, [OTHER, JOHN, MARY, NGINX]),
        ("WS4REDIS_MAX_SOCKETS_PER_USER", JOHN, [MARY, STRANGER, OTHER, NGINX]),
    ],
)
async def test_sockets_of_one_client(settings, setting, first, others):
    """One too many gets none until another one goes; nobody else notices."""
    setattr(settings, setting, 3)
    places = [place(first) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(BusyError, match=f"has 3 sockets in this process; {setting} allows no"):
            place(first)
    for whom in others:
        place(whom)
    places.pop().leave()
    place(first)
    with pytest.raises(BusyError):
        place(first)


async def test_sockets_of_a_process(settings):
    """All of them count, whoever they belong to."""
    settings.WS4REDIS_MAX_SOCKETS = 2
    first, _ = place(STRANGER), place(NGINX)
    with pytest.raises(BusyError, match="has 2 sockets; WS4REDIS_MAX_SOCKETS allows no more"):
        place(JOHN)
    first.leave()
    first.leave()  # once counts
    place(JOHN)
    with pytest.raises(BusyError):
        place(MARY)


async def test_nobody_knows_how_many_there_are_behind_a_proxy(settings):
    """So their number is not bounded, unless the project says which addresses are proxies."""
    settings.WS4REDIS_MAX_SOCKETS_PER_ADDRESS = settings.WS4REDIS_MAX_SOCKETS_PER_USER = 1
    for _ in range(10):
        place(NGINX)


@pytest.mark.parametrize(
    ("whom", "named"),
    [
        (STRANGER, "the address 198.51.100.7"),
        (JOHN, "the auth.user '1'"),
        (NGINX, "a client behind '127.0.0.1'"),
    ],
    ids=["address", "user", "proxy"],
)
async def test_who_is_slowed_down_is_told_of_once(
    settings, clock, caplog, monkeypatch, whom, named
):
    """On whatever socket; in its burst nothing is told."""
    made = remarks.Remarks()
    monkeypatch.setattr(remarks, "_remarks", lambda: made)
    settings.WS4REDIS_PUBLISH_RATE = 1
    first, second = place(whom), place(whom)
    for _ in range(10):
        await first.publish(1, 0)
    assert caplog.messages == []
    for each in (first, second):
        for _ in range(9):
            await each.publish(1, 0)
    assert len(clock.waits) == 9
    for _ in range(5):
        await second.publish(1, 0)
    assert len(clock.waits) == 13
    (line,) = caplog.messages
    assert line.startswith(f"Slowing down {named}, who sends more than WS4REDIS_PUBLISH_RATE")


async def test_without_limits(settings):
    """None is no limit."""
    for name in ("ADDRESS", "USER"):
        setattr(settings, f"WS4REDIS_MAX_SOCKETS_PER_{name}", None)
    settings.WS4REDIS_HANDSHAKE_RATE = settings.WS4REDIS_PUBLISH_RATE = None
    settings.WS4REDIS_FILL_RATE = None
    for whom in (STRANGER, JOHN):
        for number in range(1100):
            await limits().begin(whom)
            await place(whom, str(number)).publish(1_000_000, 1)


async def test_who_has_gone_leaves_nothing(clock):
    """A client that rests is forgotten when there are many others."""
    for number in range(10 * module.MAX_RESTING):
        await limits().begin(f"address {number}")
        one = place(f"address {number}")
        await one.publish(10, 1)
        one.leave()
        clock.now += 10
    assert len(limits()._tallies) <= 2 * module.MAX_RESTING


async def test_who_does_not_rest_is_remembered(clock, settings):
    """However many others there are."""
    settings.WS4REDIS_MAX_SOCKETS_PER_ADDRESS = 1
    place(STRANGER)
    for number in range(5 * module.MAX_RESTING):
        limits().tally_of(number)
    with pytest.raises(BusyError):
        place(STRANGER)


# Handshakes


async def test_handshakes_wait_and_are_refused_then(clock, settings):
    """Two seconds' worth at once, three more wait, nobody else gets in until then."""
    settings.WS4REDIS_HANDSHAKE_RATE = 8
    for number in range(40):
        await limits().begin(Proxy(str(number)))
    assert clock.waits == [number / 8 for number in range(1, 25)]
    with pytest.raises(BusyError, match="WS4REDIS_HANDSHAKE_RATE"):
        await limits().begin(NGINX)
    clock.now += 1
    for _ in range(8):
        await limits().begin(NGINX)


async def test_one_client_leaves_others_their_handshakes(clock, settings):
    """It gets a fourth of them, and what it is refused costs the others nothing."""
    settings.WS4REDIS_HANDSHAKE_RATE = 32
    for whom in (STRANGER, JOHN):
        for _ in range(40):
            await limits().begin(whom)
        for _ in range(1000):
            with pytest.raises(BusyError, match="a fourth of WS4REDIS_HANDSHAKE_RATE"):
                await limits().begin(whom)
    for _ in range(40):
        await limits().begin(MARY)


# Messages


async def test_a_client_that_sends_too_fast_waits(clock, settings):
    """After ten seconds' worth. It is not refused: it sends nothing while it waits."""
    settings.WS4REDIS_PUBLISH_RATE = 5
    one = place(NGINX)
    for _ in range(200):
        await one.publish(10, 1)
        if clock.waits:
            clock.now += clock.waits.pop()
    assert clock.now == pytest.approx(1000 + (200 - 50) / 5)


async def test_sockets_of_one_client_share_their_messages(clock, settings, monkeypatch):
    """Some times as many as one has, however many sockets there are."""
    monkeypatch.setattr(module, "MESSAGE_SHARE", 8)  # which divides a second without rest
    settings.WS4REDIS_PUBLISH_RATE = 1
    for _ in range(8 * (10 + 10)):
        await place(STRANGER).publish(10, 1)
    with pytest.raises(BusyError, match="publishes more than WS4REDIS_PUBLISH_RATE allows"):
        await place(STRANGER).publish(10, 1)
    await place(OTHER).publish(10, 1)
    await place(NGINX).publish(10, 1)


async def test_sockets_behind_a_proxy_have_messages_of_their_own(clock, settings):
    """They may be those of any number of clients."""
    settings.WS4REDIS_PUBLISH_RATE = 1
    for _ in range(1000):
        await place(NGINX).publish(10, 1)
    assert clock.waits == []


# Room in Redis


async def test_new_facilities_cost_room(clock, settings):
    """All sockets of a client fill the same room, then they wait, and are refused then."""
    settings.WS4REDIS_FILL_RATE = 16 * 1024
    for number in range(6):
        await place(STRANGER, str(number)).publish(1024 * 1024, 1)
    with pytest.raises(BusyError, match="publishes more than WS4REDIS_FILL_RATE allows"):
        await place(STRANGER, "x").publish(1024 * 1024, 1)
    await place(STRANGER, "0").publish(1024 * 1024, 1)  # takes no more room
    await place(OTHER, "x").publish(1024 * 1024, 1)
    clock.now += 60
    await place(STRANGER, "y").publish(1024 * 1024, 1)


async def test_who_shares_room_is_told(clock):
    """Those behind a proxy whose addresses are not known: that is for the operator to mend."""
    for number in range(6):
        await place(NGINX, str(number)).publish(1024 * 1024, 1)
    with pytest.raises(BusyError, match=r"all others behind the proxy '127\.0\.0\.1' .*PROXIES"):
        await place(NGINX, "x").publish(1024 * 1024, 1)
    await place(STRANGER, "x").publish(1024 * 1024, 1)


async def test_a_busy_facility_costs_no_more_than_it_keeps(clock, settings):
    """However much is published there."""
    settings.WS4REDIS_PUBLISH_RATE = None
    one = place(NGINX)
    for _ in range(2000):
        await one.publish(100_000, 1)
    assert clock.waits == []


async def test_each_audience_costs_room(clock, settings):
    """A message for three channels is stored three times."""
    settings.WS4REDIS_PUBLISH_RATE = None
    for number in range(2):
        await place(JOHN, str(number)).publish(1024 * 1024, 3)
    with pytest.raises(BusyError):
        await place(JOHN, "2").publish(1024 * 1024, 1)


async def test_what_is_not_kept_costs_no_room(clock):
    """Nor does what goes nowhere."""
    await place(STRANGER, "elsewhere").publish(7_000_000, 0)
    for number in range(100):
        await place(STRANGER, str(number), Options(keep=False)).publish(1024 * 1024, 1)
    assert clock.waits == []


async def test_each_audience_of_a_facility_costs_room(clock, settings):
    """Whoever has paid for one of them has not paid for those of other sessions or auth groups."""
    settings.WS4REDIS_PUBLISH_RATE = None
    one = Place(STRANGER)
    one.take()
    for number in range(6):
        await one.publish(1024 * 1024, [f"session:{number}:room"])
    with pytest.raises(BusyError):
        await one.publish(1024 * 1024, ["session:7:room"])
    await one.publish(1024 * 1024, ["session:0:room"])


async def test_what_is_not_stored_is_in_the_history_and_costs_room(clock, settings):
    settings.WS4REDIS_EXPIRE = 0
    for number in range(6):
        await place(STRANGER, str(number)).publish(1024 * 1024, 1)
    with pytest.raises(BusyError):
        await place(STRANGER, "x").publish(1024 * 1024, 1)


@pytest.mark.parametrize(
    "options", [Options(expire=10, history_expire=5), Options(expire=5, history_expire=10)]
)
async def test_what_is_kept_for_longer_is_paid_for_as_long(clock, options):
    """By the policy's options, and not by the settings."""
    one = place(STRANGER, options=options)
    await one.publish(1024 * 1024, 1)
    for _ in range(6):
        clock.now += 11
        await one.publish(1024 * 1024, 1)
    clock.now += 11
    with pytest.raises(BusyError):
        await one.publish(1024 * 1024, 1)


async def test_a_message_that_is_refused_is_not_paid_for(clock):
    """The same message costs the same, when there is room again."""
    for number in range(6):
        await place(STRANGER, str(number)).publish(1024 * 1024, 1)
    for _ in range(100):
        with pytest.raises(BusyError):
            await place(STRANGER, "x").publish(1024 * 1024, 1)
    clock.now += 60
    await place(STRANGER, "x").publish(1024 * 1024, 1)
    with pytest.raises(BusyError):
        await place(STRANGER, "y").publish(1024 * 1024, 1)


FACILITY, SIZE, LATER = st.sampled_from("abcd"), st.integers(1, 3000), st.sampled_from([0, 60, 99])


@given(st.lists(st.tuples(FACILITY, SIZE, LATER), max_size=60))
def test_what_was_paid_for_is_no_less_than_what_is_stored(steps):
    """Of channels with a history of one message; within twice the time that one is kept."""
    expire, room, now = 100, Room(), 0
    paid: list[tuple[int, int]] = []
    stored: dict[str, tuple[int, int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.settings, "overrides", {"WS4REDIS_EXPIRE": expire,
                                                     "WS4REDIS_HISTORY_BYTES": 2000})  # fmt: skip
        for facility, size, later in steps:
            now += later
            paid.append((room.cost(facility, size, now), now))
            room.note(facility, size, now, expire)
            stored[facility] = size, now
            there = [size for size, since in stored.values() if now < since + expire]
            counts = sum(cost for cost, since in paid if now < since + 2 * expire)
            assert sum(there) + CHANNEL_BYTES * len(there) <= counts


def test_no_more_facilities_are_remembered_than_needed():
    """What is forgotten has to be paid for anew."""
    room = Room()
    for number in range(3 * module.MAX_CHANNELS):
        room.note(str(number), 1, 0, 60)
    assert len(room._channels) == module.MAX_CHANNELS
    assert room.cost("0", 1, 0) == 1 + CHANNEL_BYTES
    assert room.cost(str(3 * module.MAX_CHANNELS - 1), 1, 0) == 1


async def test_a_silent_socket_keeps_no_buckets():
    """Most sockets only listen."""
    one = place(STRANGER)
    await one.publish(10, 1)
    tally = limits().tally_of(OTHER)
    place(OTHER)
    assert (tally.messages, tally.room) == (None, None)


def test_each_event_loop_counts_for_itself():
    """A process of a server has one."""

    async def mine() -> Limits:
        return limits()

    assert asyncio.run(mine()) is not asyncio.run(mine())
