"""Settings: names, defaults, types, and that they are read when they are used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_network
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_ws4redis.checks.values import check_settings
from channels_ws4redis.conf import NAMES, PROPERTIES, Settings
from channels_ws4redis.conf import settings as conf
from tests.servers import ROOT

DEFAULTS = {
    "WEBSOCKET_URL": "/ws/",
    "WS4REDIS_MAX_FACILITY": 255,
    "WS4REDIS_MAX_MESSAGE": 1024 * 1024,
    "WS4REDIS_CONNECTION": {"host": "localhost", "port": 6379, "db": 0, "password": None},
    "WS4REDIS_PREFIX": None,
    "WS4REDIS_EXPIRE": 3600,
    "WS4REDIS_HISTORY": 100,
    "WS4REDIS_HISTORY_EXPIRE": 300,
    "WS4REDIS_REPLAY": "last",
    "WS4REDIS_HISTORY_BYTES": 1024 * 1024,
    "WS4REDIS_META_EXPIRE": 86400,
    "WS4REDIS_HEARTBEAT": None,
    "WS4REDIS_SUBSCRIBER": "channels_ws4redis.subscriber.RedisSubscriber",
    "WS4REDIS_ALLOWED_CHANNELS": None,
    "WS4REDIS_FACILITIES": "open",
    "WS4REDIS_ALLOW_PUBLISH": None,
    "WS4REDIS_PROCESS_REQUEST": None,
    "WS4REDIS_ALLOWED_ORIGINS": (),
    "WS4REDIS_REAUTHORIZE": 300.0,
    "WS4REDIS_OUTBOX_MESSAGES": 2000,
    "WS4REDIS_OUTBOX_BYTES": 1024 * 1024,
    "WS4REDIS_THREADS": 32,
    "WS4REDIS_MAX_SOCKETS": None,
    "WS4REDIS_MAX_SOCKETS_PER_ADDRESS": 1000,
    "WS4REDIS_MAX_SOCKETS_PER_USER": 1000,
    "WS4REDIS_HANDSHAKE_RATE": 1000,
    "WS4REDIS_PUBLISH_RATE": 200,
    "WS4REDIS_FILL_RATE": 16 * 1024,
    "WS4REDIS_TRUSTED_PROXIES": None,
    "WS4REDIS_CLOSE_WINDOW": 2.0,
    "WS4REDIS_LEGACY_SERVERS": False,
    "WS4REDIS_ON_COMMIT": False,
    "WS4REDIS_ON_ERROR": "raise",
    "DEBUG": False,
    "SESSION_COOKIE_NAME": "sessionid",
    "SESSION_ENGINE": "django.contrib.sessions.backends.db",
    "SESSION_CACHE_ALIAS": "default",
    "AUTHENTICATION_BACKENDS": ["django.contrib.auth.backends.ModelBackend"],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(settings, name):
    """Every setting may be left out."""
    if hasattr(settings, name):
        delattr(settings, name)
    assert getattr(Settings(), name) == DEFAULTS[name]


def test_csrf_trusted_origins(settings):
    """Django's own list of trusted origins is read too."""
    assert list(conf.CSRF_TRUSTED_ORIGINS) == []
    settings.CSRF_TRUSTED_ORIGINS = ["https://a.example"]
    assert conf.CSRF_TRUSTED_ORIGINS == ["https://a.example"]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("WEBSOCKET_URL", "/stream", "/stream"),
        ("WEBSOCKET_URL", "ws/", "/ws/"),
        ("WEBSOCKET_URL", "//ws/", "/ws/"),
        ("WEBSOCKET_URL", "", "/"),
        ("WS4REDIS_CONNECTION", {"host": "h"}, {"host": "h"}),
        ("WS4REDIS_CONNECTION", "redis://h", "redis://h"),
        ("WS4REDIS_CONNECTION", None, DEFAULTS["WS4REDIS_CONNECTION"]),
        ("WS4REDIS_PREFIX", "ws", "ws"),
        ("WS4REDIS_EXPIRE", 0, 0),
        ("WS4REDIS_EXPIRE", None, 0),
        ("WS4REDIS_EXPIRE", 7200, 7200),
        ("WS4REDIS_HEARTBEAT", "", None),
        ("WS4REDIS_HEARTBEAT", "#", "#"),
        ("WS4REDIS_HEARTBEAT", b"--heartbeat--", "--heartbeat--"),
        ("WS4REDIS_SUBSCRIBER", None, DEFAULTS["WS4REDIS_SUBSCRIBER"]),
        ("WS4REDIS_SUBSCRIBER", dict, dict),
        ("WS4REDIS_ALLOWED_CHANNELS", "a.b", "a.b"),
        ("WS4REDIS_ALLOWED_CHANNELS", len, len),
        ("WS4REDIS_PROCESS_REQUEST", "a.b", "a.b"),
        ("WS4REDIS_ALLOWED_ORIGINS", None, ()),
        ("WS4REDIS_ALLOWED_ORIGINS", "https://a.example", ["https://a.example"]),
        ("WS4REDIS_ALLOWED_ORIGINS", ["*"], ["*"]),
        ("WS4REDIS_HISTORY", 1000, 1000),
        ("WS4REDIS_HISTORY_EXPIRE", 1, 1),
        ("WS4REDIS_REPLAY", "all", "all"),
        ("WS4REDIS_REPLAY", "none", "none"),
        ("WS4REDIS_REPLAY", 20, 20),
        ("WS4REDIS_HISTORY_BYTES", 1, 1),
        ("WS4REDIS_META_EXPIRE", 60, 60),
        ("WS4REDIS_MAX_SOCKETS", 1, 1),
        ("WS4REDIS_PUBLISH_RATE", None, None),
        ("WS4REDIS_TRUSTED_PROXIES", 2, 2),
        ("WS4REDIS_TRUSTED_PROXIES", [], ()),
        ("WS4REDIS_TRUSTED_PROXIES", "192.0.2.1", (ip_network("192.0.2.1"),)),
        (
            "WS4REDIS_TRUSTED_PROXIES",
            ["10.0.0.0/8", "2001:db8::1"],
            (ip_network("10.0.0.0/8"), ip_network("2001:db8::1")),
        ),
        ("WS4REDIS_REAUTHORIZE", 60, 60),
        ("WS4REDIS_REAUTHORIZE", 0, 0),
        ("WS4REDIS_REAUTHORIZE", None, 0),
        ("WS4REDIS_CLOSE_WINDOW", 0, 0),
        ("WS4REDIS_CLOSE_WINDOW", 0.5, 0.5),
        ("WS4REDIS_LEGACY_SERVERS", 1, True),
        ("WS4REDIS_LEGACY_SERVERS", None, False),
        ("WS4REDIS_ALLOW_PUBLISH", 0, False),
        ("WS4REDIS_ALLOW_PUBLISH", True, True),
        ("WS4REDIS_ON_COMMIT", 1, True),
        ("WS4REDIS_ON_ERROR", "log", "log"),
    ],
)
def test_values(name, value, read):
    """A setting is read at the moment it is used, so that override_settings works."""
    with override_settings(**{name: value}):
        assert getattr(conf, name) == read
        assert type(getattr(conf, name)) is type(read) or not isinstance(read, bool)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("WEBSOCKET_URL", None, "must be the path of an address, such as '/ws/'"),
        ("WEBSOCKET_URL", "wss://example.com/ws/", "must be the path of an address"),
        ("WEBSOCKET_URL", "/ws/#", "must be the path of an address"),
        ("WS4REDIS_CONNECTION", 6379, "must be a dict or a redis:// URL"),
        ("WS4REDIS_CONNECTION", ["localhost"], "must be a dict or a redis:// URL"),
        ("WS4REDIS_CONNECTION", "localhost:6379", "must be a dict or a redis:// URL"),
        ("WS4REDIS_PREFIX", 7, "a text, such as 'mysite', or None"),
        ("WS4REDIS_ALLOWED_ORIGINS", 7, "a list of origins, such as 'https://app.example.com'"),
        ("WS4REDIS_SUBSCRIBER", [], "a subclass of RedisSubscriber, or its dotted path"),
        ("WS4REDIS_PROCESS_REQUEST", 7, "a function, its dotted path, or None"),
        ("WS4REDIS_LEGACY_SERVERS", "False", "True or False"),
        ("WS4REDIS_ON_COMMIT", "False", "True or False"),
        ("WS4REDIS_ON_ERROR", "ignore", "'raise' or 'log'"),
        ("WS4REDIS_ON_ERROR", None, "'raise' or 'log'"),
        ("CSRF_TRUSTED_ORIGINS", "https://a.example", "a list of texts"),
        ("WS4REDIS_EXPIRE", -1, "at least 0"),
        ("WS4REDIS_EXPIRE", "3600", "at least 0"),
        ("WS4REDIS_EXPIRE", True, "at least 0"),
        ("WS4REDIS_EXPIRE", 1.5, "at least 0"),
        ("WS4REDIS_EXPIRE", 10**10, "at most 1000000000"),
        ("WS4REDIS_HISTORY", 0, "at least 1"),
        ("WS4REDIS_HISTORY", None, "at least 1"),
        ("WS4REDIS_HISTORY", 10**9, "at most 100000000"),
        ("WS4REDIS_META_EXPIRE", 10**10, "at most 1000000000"),
        ("WS4REDIS_HISTORY_EXPIRE", 0, "at least 1"),
        ("WS4REDIS_HISTORY_EXPIRE", 10**10, "at most 1000000000"),
        ("WS4REDIS_REPLAY", True, "'last', 'none', 'all', or a number"),
        ("WS4REDIS_REPLAY", 0, "of at least 1"),
        ("WS4REDIS_REPLAY", "some", "'last', 'none', 'all'"),
        ("WS4REDIS_HISTORY_BYTES", 0, "at least 1"),
        ("WS4REDIS_META_EXPIRE", 59, "at least 60"),
        ("WS4REDIS_OUTBOX_MESSAGES", 0, "at least 1"),
        ("WS4REDIS_OUTBOX_BYTES", "1M", "at least 1"),
        ("WS4REDIS_THREADS", 1, "at least 2"),
        ("WS4REDIS_FACILITIES", "closed", "'open' or 'strict'"),
        ("WS4REDIS_FACILITIES", None, "'open' or 'strict'"),
        ("WS4REDIS_ALLOW_PUBLISH", 2, "True or False"),
        ("WS4REDIS_ALLOW_PUBLISH", "False", "True or False"),
        ("WS4REDIS_MAX_SOCKETS", 0, "at least 1"),
        ("WS4REDIS_MAX_SOCKETS_PER_USER", "100", "at least 1"),
        ("WS4REDIS_FILL_RATE", 0.5, "at least 1"),
        ("WS4REDIS_TRUSTED_PROXIES", 0, "a list of addresses and networks, or the number"),
        ("WS4REDIS_TRUSTED_PROXIES", True, "a list of addresses and networks, or the number"),
        ("WS4REDIS_TRUSTED_PROXIES", 1.0, "a list of addresses and networks, or the number"),
        ("WS4REDIS_TRUSTED_PROXIES", ["10.0.0.1/8"], "has host bits set"),
        ("WS4REDIS_TRUSTED_PROXIES", ["nginx"], "does not appear to be an IPv4 or IPv6 network"),
        ("WS4REDIS_TRUSTED_PROXIES", [10], "not all of them are texts"),
        ("WS4REDIS_REAUTHORIZE", -1, "number of seconds"),
        ("WS4REDIS_REAUTHORIZE", "300", "number of seconds"),
        ("WS4REDIS_REAUTHORIZE", True, "number of seconds"),
        ("WS4REDIS_CLOSE_WINDOW", -0.1, "number of seconds"),
        ("WS4REDIS_CLOSE_WINDOW", "2", "number of seconds"),
        ("WS4REDIS_CLOSE_WINDOW", False, "number of seconds"),
        pytest.param("WS4REDIS_CLOSE_WINDOW", 10**400, "number of seconds", id="huge"),
        ("WS4REDIS_CLOSE_WINDOW", float("inf"), "number of seconds"),
    ],
)
def test_wrong_values(settings, name, value, complaint):
    """A value that makes no sense raises ImproperlyConfigured with the name and the value."""
    setattr(settings, name, value)
    with pytest.raises(ImproperlyConfigured, match=complaint) as caught:
        getattr(conf, name)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


#: Of such types, whatever a setting is.
VALUES = {"None": None, "7": 7, "nan": float("nan"), "text": "x", "bytes": b"\xff", "list": [],
          "numbers": [7], "dict": {}, "object": object()}  # fmt: skip


def is_of_type(value: Any, kind: Any) -> bool:
    """Tell whether a value is what an annotation says."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(is_of_type(value, each) for each in arguments)
    if origin is Callable:
        return callable(value)
    if origin is Collection:
        is_list = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        return is_list and all(is_of_type(each, *arguments) for each in value)
    if origin is Literal:
        return value in arguments
    return isinstance(value, (int, float) if kind is float else origin or kind)


def refusal(name: str) -> str:
    """Return what is said about the value of a setting; nothing if it is taken."""
    try:
        getattr(conf, name)
    except ImproperlyConfigured as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_any_type(settings, name, value):
    """It is read as what the setting is, or refused with the name, the value and a remedy."""
    setattr(settings, name, value)
    text = refusal(name)
    if text:
        assert text.startswith(f"{name} is {value!r}; it must be ")
    else:
        assert is_of_type(getattr(conf, name), get_type_hints(PROPERTIES[name].fget)["return"])
    assert [problem.msg for problem in check_settings(None)] == [text] * bool(text)


def test_a_password_is_not_shown(settings):
    """The log is read by more people than the settings."""
    settings.WS4REDIS_CONNECTION = "http://:secret@localhost"
    with pytest.raises(ImproperlyConfigured, match="is 'localhost'; it must be a dict or a redis"):
        _ = conf.WS4REDIS_CONNECTION


def test_overrides(settings):
    """What code assigned at run time wins over Django's settings, and is checked as well."""
    own = Settings()
    settings.WS4REDIS_EXPIRE = 10
    own.overrides["WS4REDIS_EXPIRE"] = 20
    assert own.WS4REDIS_EXPIRE == 20
    own.overrides["WS4REDIS_EXPIRE"] = "20"
    with pytest.raises(ImproperlyConfigured):
        _ = own.WS4REDIS_EXPIRE
    del own.overrides["WS4REDIS_EXPIRE"]
    assert own.WS4REDIS_EXPIRE == 10


def test_settings_may_come_from_any_object() -> None:
    """``settings.configure`` takes one whose class has them."""
    code = """if True:
        from django.conf import settings

        class Defaults:
            WS4REDIS_EXPIRE = 20

        settings.configure(Defaults())
        from channels_ws4redis.conf import settings
        print(settings.WS4REDIS_EXPIRE, settings.WS4REDIS_HISTORY)
    """
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "20 100\n"


def test_settings_are_found_as_django_finds_them(settings) -> None:
    """Overridden, overridden again, deleted, and assigned without any ceremony."""
    settings.DEBUG = False  # an override of its own, to which the assignments below are confined
    assert conf.WS4REDIS_CLOSE_WINDOW == 2.0
    with override_settings(WS4REDIS_CLOSE_WINDOW=1):
        with override_settings(WS4REDIS_HISTORY=2):
            assert (conf.WS4REDIS_CLOSE_WINDOW, conf.WS4REDIS_HISTORY) == (1, 2)
            del django_settings.WS4REDIS_CLOSE_WINDOW
            assert conf.WS4REDIS_CLOSE_WINDOW == 2.0
        assert conf.WS4REDIS_CLOSE_WINDOW == 1
    django_settings.WS4REDIS_CLOSE_WINDOW = 3
    assert conf.WS4REDIS_CLOSE_WINDOW == 3
    del django_settings.WS4REDIS_CLOSE_WINDOW
    assert conf.WS4REDIS_CLOSE_WINDOW == 2.0
