"""The system checks, each with what it finds and what it leaves alone."""

from __future__ import annotations

import sys
import types

import pytest
import redis.connection
from channels.layers import channel_layers
from django.conf import global_settings
from django.contrib.sessions.backends.cached_db import SessionStore as CachedStore
from django.core.checks import run_checks
from django.core.checks.registry import registry

from channels_ws4redis.conf import NAMES
from channels_ws4redis.facilities import facility
from channels_ws4redis.subscriber import RedisSubscriber, subscriber_class
from tests.test_conf import VALUES, refusal

OWN = {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}
CORE = {"BACKEND": "channels_redis.core.RedisChannelLayer"}
#: A cache that all processes share; the checks connect to none.
SHARED = "django.core.cache.backends.redis.RedisCache"


class BroadcastOnly(RedisSubscriber):
    """Listens on broadcasts, publishes nothing."""

    subscription_channels = ["subscribe-broadcast"]  # noqa: RUF012 # as legacy projects write it
    publish_channels = []  # noqa: RUF012


def allow(request, channels):
    """Allow everything."""
    return channels


@pytest.fixture(autouse=True)
def good_project(settings):
    """A project with which nothing is wrong."""
    settings.CHANNEL_LAYERS = {"default": OWN}
    settings.WS4REDIS_ALLOWED_CHANNELS = allow
    settings.WS4REDIS_PREFIX = "site"
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
    settings.CACHES = {"default": {"BACKEND": SHARED}}
    yield
    channel_layers.backends.clear()


def found(*, deploy: bool = False) -> dict[str, str]:
    """Return the ids of what our checks find, with message and remedy."""
    channel_layers.backends.clear()
    return {
        problem.id: f"{problem.msg} {problem.hint}"
        for problem in run_checks(include_deployment_checks=deploy)
        if problem.id.startswith("ws4redis.")
    }


def test_nothing_wrong():
    """A good project gets no message, at deployment neither."""
    assert found(deploy=True) == {}
    assert any(check.__name__ == "check_layer" for check in registry.registered_checks)


@pytest.mark.parametrize("layers", [{}, None, {"other": OWN}])
def test_no_layer(settings, layers):
    """E001: there is no default channel layer."""
    settings.CHANNEL_LAYERS = layers
    problems = found()
    assert list(problems) == ["ws4redis.E001"]
    assert "channels_ws4redis.layers.RedisChannelLayer" in problems["ws4redis.E001"]


@pytest.mark.parametrize("name", ["ALLOWED_CHANNELS", "PROCESS_REQUEST", "SUBSCRIBER"])
@pytest.mark.parametrize(
    "value", ["common.redis", "tests.test_checks.missing", "tests.test_checks.OWN", "nodots"]
)
def test_hooks(settings, name, value):
    """E002: a hook cannot be imported, or is not what it must be."""
    setattr(settings, f"WS4REDIS_{name}", value)
    problems = found(deploy=True)
    assert "ws4redis.E002" in problems
    assert f"WS4REDIS_{name}" in problems["ws4redis.E002"]


class Complete:
    """Extends nothing of the package, and has what a subscriber needs at least."""

    def set_pubsub_channels(self, request, channels):
        """Set nothing."""


class Incomplete:
    """Has nothing of a subscriber."""


def test_a_subscriber_of_another_family(settings):
    """A class with the methods of a subscriber is one; E002 tells of another one."""
    settings.WS4REDIS_SUBSCRIBER = "tests.test_checks.Complete"
    assert found(deploy=True) == {}
    assert issubclass(subscriber_class(), Complete)
    assert subscriber_class() is subscriber_class()
    settings.WS4REDIS_SUBSCRIBER = Incomplete
    assert "nor a class with its methods" in found()["ws4redis.E002"]


def test_good_hooks(settings):
    """Hooks that can be imported are left alone."""
    settings.WS4REDIS_ALLOWED_CHANNELS = "tests.test_checks.allow"
    settings.WS4REDIS_PROCESS_REQUEST = "tests.test_checks.allow"
    settings.WS4REDIS_SUBSCRIBER = "tests.test_checks.BroadcastOnly"
    assert found() == {}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (OWN, False),
        (OWN | {"CONFIG": {"hosts": ["redis://localhost:6380"]}}, True),
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, True),
    ],
)
def test_legacy_servers(settings, layer, wrong):
    """E003: the layer does not hear what legacy servers publish."""
    settings.CHANNEL_LAYERS = {"default": layer}
    assert found() == {}
    settings.WS4REDIS_LEGACY_SERVERS = True
    assert list(found()) == (["ws4redis.E003"] if wrong else [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WS4REDIS_EXPIRE", "soon"),
        ("WS4REDIS_CONNECTION", {"port": "redis"}),
        ("WS4REDIS_HISTORY", 0),
        ("WEBSOCKET_URL", "ws://example.com/ws/"),
        ("WEBSOCKET_URL", "/ws/?x"),
        ("WEBSOCKET_URL", None),
    ],
)
def test_values(settings, name, value):
    """E004: a setting has a value that makes no sense."""
    setattr(settings, name, value)
    problems = found()
    assert list(problems) == ["ws4redis.E004"]
    assert name in problems["ws4redis.E004"]


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("name", [name for name in NAMES if not hasattr(global_settings, name)])
def test_a_value_of_any_type(settings, no_policies, name, value):
    """E004 alone tells of it, whatever other checks rest on the setting."""
    facility("<path:x>")(lambda request, x: True)
    setattr(settings, name, value)
    problems = found(deploy=True)
    if text := refusal(name):
        assert list(problems) == ["ws4redis.E004"]
        assert problems["ws4redis.E004"].startswith(text)


@pytest.mark.parametrize("value", [-1, -60])
def test_a_negative_expire_time(settings, value):
    """E004: legacy stored nothing then; the remedy says how that is written."""
    settings.WS4REDIS_EXPIRE = value
    assert "With 0 or None nothing is stored" in found()["ws4redis.E004"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WS4REDIS_HEARTBEET", "WS4REDIS_HEARTBEAT"),
        ("WS4REDIS_ALLOWED_CHANNEL", "WS4REDIS_ALLOWED_CHANNELS"),
        ("WS4REDIS_CONNECTIONS", "WS4REDIS_CONNECTION"),
        ("WS4REDIS_FACILITY", "WS4REDIS_FACILITIES"),
        ("WS4_REDIS_SUBSCRIBER", "WS4REDIS_SUBSCRIBER"),
        ("WSREDIS_EXPIRE", "WS4REDIS_EXPIRE"),
        ("WS4REDISPROCESS_REQUEST", "WS4REDIS_PROCESS_REQUEST"),
        ("WEBSOCKETS_URL", "WEBSOCKET_URL"),
    ],
)
def test_misspelt_settings(settings, name, meant):
    """W008: nothing reads the setting, and the one that was meant is named."""
    if hasattr(settings, "WEBSOCKET_URL"):
        del settings.WEBSOCKET_URL
    setattr(settings, name, "x")
    problems = found()
    assert list(problems) == ["ws4redis.W008"]
    assert (
        f"{name} is no setting of channels_ws4redis; did you mean {meant}?"
        in (problems["ws4redis.W008"])
    )


@pytest.mark.parametrize("name", ["WS4REDIS_HOST", "WS4REDIS_PORT", "WS4REDIS_URL", "WS4REDIS_DB"])
def test_settings_of_the_project(settings, name):
    """W008 leaves alone what a project makes its connection from, and its pages' addresses."""
    settings.WEBSOCKET_URL = "/ws/"
    settings.WEBSOCKET_URI = "wss://example.com/ws/"
    setattr(settings, name, "x")
    assert found() == {}


@pytest.mark.parametrize(
    ("hosts", "redis_py", "wrong"),
    [
        (["redis://localhost"], "8.1.0", True),
        (["redis://localhost?socket_timeout=60"], "8.1.0", False),
        ([{"address": "redis://localhost", "socket_timeout": None}], "8.1.0", False),
        ([("localhost", 6379)], "8.1.0", True),
        ([("localhost", 6379)], "7.4.0", False),
    ],
)
def test_core_layer_times_out(settings, monkeypatch, hosts, redis_py, wrong):
    """W001: channels_redis' core layer on redis-py 8 without a socket timeout."""
    monkeypatch.setattr("redis.__version__", redis_py)
    settings.CHANNEL_LAYERS = {"default": CORE | {"CONFIG": {"hosts": hosts, "capacity": 10_000}}}
    assert list(found()) == (["ws4redis.W001"] if wrong else [])


@pytest.mark.parametrize(("capacity", "wrong"), [(100, True), (10_000, False)])
def test_core_layer_capacity(settings, capacity, wrong):
    """W002: channels_redis' core layer drops what exceeds its capacity."""
    hosts = [{"address": "redis://localhost", "socket_timeout": None}]
    settings.CHANNEL_LAYERS = {"default": CORE | {"CONFIG": {"hosts": hosts, "capacity": capacity}}}
    assert list(found()) == (["ws4redis.W002"] if wrong else [])


@pytest.mark.parametrize(
    ("entry_point", "wrong"),
    [
        ("ws4redis.django_runserver.application", True),
        ("channels_ws4redis.django_runserver.application", True),
        ("mysite.wsgi.application", False),
        (None, False),
    ],
)
def test_wsgi_application(settings, entry_point, wrong):
    """W003: WSGI_APPLICATION still points to ws4redis."""
    settings.WSGI_APPLICATION = entry_point
    assert list(found()) == (["ws4redis.W003"] if wrong else [])


@pytest.mark.parametrize(
    ("command", "apps", "wrong"),
    [
        ("runserver", ["django.contrib.staticfiles"], True),
        ("runserver", [], True),
        ("runserver", ["daphne", "django.contrib.staticfiles"], False),
        ("check", ["django.contrib.staticfiles"], False),
        ("runserver", ["tests.own_runserver", "django.contrib.staticfiles"], False),
    ],
)
def test_runserver(monkeypatch, command, apps, wrong):
    """W010: what is being started is Django's own server, which knows no WebSockets."""
    monkeypatch.setattr(sys, "argv", ["manage.py", command, "8000"])
    provider = apps[0] if apps else "django.core"
    monkeypatch.setattr(
        "channels_ws4redis.checks.servers.get_commands", lambda: {"runserver": provider}
    )
    assert list(found()) == (["ws4redis.W010"] if wrong else [])


def test_gevent_in_redis(monkeypatch):
    """W004: redis-py has been given gevent's sockets."""
    module = types.ModuleType("gevent.socket")
    monkeypatch.setattr(redis.connection, "socket", module)
    assert list(found()) == ["ws4redis.W004"]


@pytest.mark.parametrize("patched", [True, False])
def test_gevent_patches(monkeypatch, patched):
    """W004: gevent has patched the standard library; to have it imported is harmless."""
    module = types.ModuleType("gevent.monkey")
    module.is_module_patched = lambda name: patched  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", module)
    assert list(found()) == (["ws4redis.W004"] if patched else [])


@pytest.mark.parametrize(
    ("subscriber", "wrong"),
    [(None, True), ("tests.test_checks.BroadcastOnly", False)],
)
def test_clients_publish(settings, subscriber, wrong):
    """W005: anyone may publish to everyone, and nothing says that this is meant."""
    settings.WS4REDIS_ALLOWED_CHANNELS = None
    settings.WS4REDIS_SUBSCRIBER = subscriber
    assert list(found()) == (["ws4redis.W005"] if wrong else [])
    for meant in (True, False):
        settings.WS4REDIS_ALLOW_PUBLISH = meant
        assert found() == {}
    settings.WS4REDIS_ALLOW_PUBLISH = "no"
    assert list(found()) == ["ws4redis.E004"]


def route(text: str, **options) -> None:
    """Make a policy."""
    facility(text, **options)(lambda request, **arguments: True)


@pytest.mark.parametrize(
    ("routes", "wrong"),
    [
        (["orders/<int:pk>", "orders/<str:pk>", "orders", "", "<path:x>"], []),
        (["orders/new", "orders/<str:pk>"], []),
        (["orders/<str:pk>", "orders/new"], ["orders/new"]),
        (["<path:x>", "orders/<int:pk>", ""], []),
        (["orders/<int:pk>", "orders/<int:id>"], ["orders/<int:id>"]),
        (["<x>", "<str:y>", "<int:x>"], ["<str:y>"]),
        (["/orders"], ["/orders"]),
        (["^orders$"], ["^orders$"]),
        (["orders$"], ["orders$"]),
    ],
)
def test_a_policy_that_is_never_asked(no_policies, routes, wrong):
    """E005: by its route."""
    for text in routes:
        route(text)
    problems = found()
    assert list(problems) == (["ws4redis.E005"] if wrong else [])
    for text in wrong:
        assert repr(text) in problems["ws4redis.E005"]


@pytest.mark.parametrize(("url", "wrong"), [("/ws/", "/x"), ("/ws", "x")])
def test_slashes_of_facilities(settings, no_policies, url, wrong):
    """E005: facilities begin with a slash if WEBSOCKET_URL does not end with one."""
    settings.WEBSOCKET_URL = url
    route({"/x": "x", "x": "/x"}[wrong])
    route("<path:x>")
    assert found() == {}
    route(wrong)
    assert f"of {wrong!r} is never asked" in found()["ws4redis.E005"]


def test_policies_let_clients_publish_with_flags_that_there_are(settings, no_policies):
    """E006: the subscriber says which."""
    route("a", publish=["publish-broadcast", "publish-user"])
    assert found() == {}
    route("b", publish=["publish-broadcasts", "subscribe-user"])
    assert "'subscribe-user'" in found()["ws4redis.E006"]
    settings.WS4REDIS_SUBSCRIBER = "tests.test_checks.nowhere"
    assert list(found()) == ["ws4redis.E002"]


def test_strict_without_policies(settings, no_policies):
    """W011: every socket is refused; and nobody publishes, so W005 says nothing."""
    settings.WS4REDIS_ALLOWED_CHANNELS = None
    settings.WS4REDIS_FACILITIES = "strict"
    assert list(found()) == ["ws4redis.W011"]
    route("a")
    assert found() == {}
    settings.WS4REDIS_FACILITIES = "closed"
    assert "ws4redis.E004" in found()


def test_no_prefix(settings):
    """W007: at deployment, that clients may name keys of other programs."""
    settings.WS4REDIS_PREFIX = None
    assert found() == {}
    assert list(found(deploy=True)) == ["ws4redis.W007"]


@pytest.mark.parametrize("name", ["example.com", "*.example.com", "https://*", "", "https://a b"])
def test_origins(settings, name):
    """E004: what is no origin among those that may open sockets."""
    settings.WS4REDIS_ALLOWED_ORIGINS = ["*", "null", "https://*.example.com", "http://[::1]:80/"]
    assert found() == {}
    settings.WS4REDIS_ALLOWED_ORIGINS = ["https://app.example.com", name]
    assert repr(name) in found()["ws4redis.E004"]


def test_layer_for_one_process(settings):
    """W006: at deployment, that the layer reaches one process only."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert found() == {}
    assert list(found(deploy=True)) == ["ws4redis.W006"]


@pytest.mark.parametrize(
    ("engine", "subscriber", "told"),
    [
        ("db", None, True),
        ("db", "tests.test_checks.BroadcastOnly", False),
        ("cached_db", None, False),
    ],
)
def test_sessions(settings, engine, subscriber, told):
    """I001: at deployment, that every socket may ask the database for its session."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.WS4REDIS_SUBSCRIBER = subscriber
    assert found() == {}
    assert list(found(deploy=True)) == (["ws4redis.I001"] if told else [])


class ExtendedStore(CachedStore):
    """What a project makes of an engine of Django."""


@pytest.mark.parametrize(
    ("engine", "cache", "wrong"),
    [
        ("django.contrib.sessions.backends.cached_db", "locmem.LocMemCache", True),
        ("django.contrib.sessions.backends.cache", "locmem.LocMemCache", True),
        ("django.contrib.sessions.backends.cache", "dummy.DummyCache", True),
        ("tests.extended_sessions", "locmem.LocMemCache", True),
        ("django.contrib.sessions.backends.cached_db", "redis.RedisCache", False),
        ("django.contrib.sessions.backends.signed_cookies", "locmem.LocMemCache", False),
    ],
)
def test_sessions_in_a_cache_of_each_process(settings, monkeypatch, engine, cache, wrong):
    """W009: at deployment, that a session which has ended goes on in other processes."""
    module = types.ModuleType("tests.extended_sessions")
    module.SessionStore = ExtendedStore  # type: ignore[attr-defined] # what makes it an engine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    settings.SESSION_ENGINE = engine
    settings.SESSION_CACHE_ALIAS = "sessions"
    settings.CACHES = {
        "default": {"BACKEND": SHARED},
        "sessions": {"BACKEND": f"django.core.cache.backends.{cache}"},
    }
    assert found() == {}
    problems = found(deploy=True)
    assert list(problems) == (["ws4redis.W009"] if wrong else [])
    assert not wrong or cache.partition(".")[2] in problems["ws4redis.W009"]
