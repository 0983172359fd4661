"""Whom a stranger's connection counts for."""

from __future__ import annotations

import pytest

from channels_ws4redis.handshake.addresses import Proxy, address_of

PROXY, CLIENT, FORGED = "10.0.0.1", "9.9.9.9", "8.8.8.8"


def whom(host: str | None, *forwarded: str) -> object:
    """Return whom a connection from this host counts for, with these X-Forwarded-For."""
    headers = [
        (b"host", b"example.com"),
        *((b"x-forwarded-for", each.encode()) for each in forwarded),
    ]
    return address_of({"client": None if host is None else [host, 4711], "headers": headers})


@pytest.mark.parametrize(
    ("host", "counts_for"),
    [
        ("9.9.9.9", "9.9.9.9"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("2a00:1:2:3:4::5", "2a00:1:2:3::/64"),
        ("2a00:1:2:3:ffff::", "2a00:1:2:3::/64"),
        (None, Proxy("")),
        ("", Proxy("")),
        ("127.0.0.1", Proxy("127.0.0.1")),
        ("::1", Proxy("::1")),
        ("172.17.0.2", Proxy("172.17.0.2")),
        ("100.64.0.7", Proxy("100.64.0.7")),
        ("fe80::1%eth0", Proxy("fe80::1%eth0")),
        ("testclient", Proxy("testclient")),
        ("no: address", Proxy("no: address")),
        ("9" * 100_000, Proxy("9" * 100_000)),
    ],
)
def test_without_a_setting(host, counts_for):
    """An address of the internet is one client, and so is a network of IPv6; others are proxies."""
    assert whom(host) == counts_for
    assert whom(host, FORGED) == counts_for  # anybody may send the header


def test_a_scope_may_lack_everything():
    """As that of a test does."""
    assert address_of({}) == Proxy("")


@pytest.mark.parametrize(
    ("host", "forwarded", "counts_for"),
    [
        # Nobody but these proxies is believed.
        (CLIENT, [], CLIENT),
        (CLIENT, [FORGED], CLIENT),
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{FORGED}, {CLIENT}"], CLIENT),
        (PROXY, [FORGED, CLIENT], CLIENT),
        (PROXY, [f"{FORGED},{CLIENT},10.9.9.9"], CLIENT),
        (PROXY, ["192.168.7.7"], "192.168.7.7"),
        (None, [f"{FORGED}, {CLIENT}"], CLIENT),
        # As some proxies write addresses.
        (PROXY, [f"{CLIENT}:4711"], CLIENT),
        (PROXY, ["[2a00:1:2:3::4]:4711"], "2a00:1:2:3::/64"),
        (PROXY, ["2a00:1:2:3::4"], "2a00:1:2:3::/64"),
        (PROXY, [f"::ffff:{CLIENT}"], CLIENT),
        (f"::ffff:{PROXY}", [CLIENT], CLIENT),
        # What makes no sense.
        (PROXY, [], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, ["unknown"], PROXY),
        (PROXY, [f"{CLIENT}, unknown"], PROXY),
        (PROXY, [f"{CLIENT}, unknown, 10.1.1.1"], "10.1.1.1"),
        (PROXY, ["1" * 60_000], PROXY),
        (PROXY, [","] * 1000, PROXY),
        (None, [], Proxy("")),
        (None, ["unknown"], Proxy("")),
        ("testclient", [CLIENT], Proxy("testclient")),
    ],
)
def test_proxies_by_their_networks(settings, host, forwarded, counts_for):
    """The client is the last on the way who is none of them."""
    settings.WS4REDIS_TRUSTED_PROXIES = ["10.0.0.0/8", "192.0.2.1"]
    assert whom(host, *forwarded) == counts_for


@pytest.mark.parametrize(
    ("host", "forwarded", "counts_for"),
    [
        (PROXY, [f"{FORGED}, {CLIENT}, 7.7.7.7"], CLIENT),
        (PROXY, [CLIENT, "7.7.7.7"], CLIENT),
        (None, [CLIENT, "7.7.7.7"], CLIENT),
        # It has passed by a proxy, and may have made the header up.
        (CLIENT, [FORGED], CLIENT),
        (CLIENT, [], CLIENT),
        (CLIENT, ["unknown, 7.7.7.7"], CLIENT),
        (None, [CLIENT], Proxy("")),
    ],
)
def test_proxies_by_their_number(settings, host, forwarded, counts_for):
    """Each of them adds the address of whoever has connected to it."""
    settings.WS4REDIS_TRUSTED_PROXIES = 2
    assert whom(host, *forwarded) == counts_for


def test_no_proxies_at_all(settings):
    """Then every address is a client's."""
    settings.WS4REDIS_TRUSTED_PROXIES = []
    assert whom("127.0.0.1", FORGED) == "127.0.0.1"
    assert whom("::1") == "::/64"
    assert whom(None, FORGED) == FORGED  # a Unix socket, whose other end is on this machine
