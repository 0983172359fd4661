"""The settings as a module."""

from __future__ import annotations

from unittest import mock

import pytest
from django.test import override_settings

from channels_ws4redis import settings as private_settings
from channels_ws4redis.conf import settings
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.process import forget_connections


@pytest.fixture(autouse=True)
def nothing_assigned():
    """Start and end without assignments."""
    assert settings.overrides == {}
    yield
    settings.overrides.clear()
    forget_connections()


def test_reading():
    """The attributes are those of legacy, and follow Django's settings."""
    with override_settings(WS4REDIS_PREFIX="demo", WS4REDIS_EXPIRE=7, WS4REDIS_HEARTBEAT="hb"):
        assert private_settings.WS4REDIS_PREFIX == "demo"
        assert private_settings.WS4REDIS_EXPIRE == 7
        assert private_settings.WS4REDIS_HEARTBEAT == "hb"
    assert private_settings.WS4REDIS_PREFIX is None
    assert private_settings.WEBSOCKET_URL == "/ws/"
    assert private_settings.WS4REDIS_ALLOWED_CHANNELS is None
    assert "WS4REDIS_SUBSCRIBER" in dir(private_settings)


def test_defaults():
    """Without Django settings the defaults are those of legacy."""
    with override_settings():
        from django.conf import settings as django_settings  # noqa: PLC0415 # inside the override

        del django_settings.WS4REDIS_CONNECTION
        assert private_settings.WS4REDIS_CONNECTION == {
            "host": "localhost",
            "port": 6379,
            "db": 0,
            "password": None,
        }


def test_unknown_name():
    """What is no setting is no attribute."""
    with pytest.raises(AttributeError, match="WS4REDIS_NONSENSE"):
        private_settings.WS4REDIS_NONSENSE  # noqa: B018 # raises


def test_assignment():
    """An assignment takes effect at once, wins over Django's settings, and can be deleted."""

    def allow(request, channels):
        return channels

    private_settings.WS4REDIS_ALLOWED_CHANNELS = allow
    private_settings.WS4REDIS_PREFIX = "assigned"
    with override_settings(WS4REDIS_PREFIX="django"):
        assert settings.WS4REDIS_ALLOWED_CHANNELS is allow
        assert RedisPublisher(facility="foo", broadcast=True)._publishers == {
            "assigned:broadcast:foo"
        }
        del private_settings.WS4REDIS_PREFIX
        assert private_settings.WS4REDIS_PREFIX == "django"
    del private_settings.WS4REDIS_ALLOWED_CHANNELS
    del private_settings.WS4REDIS_ALLOWED_CHANNELS
    assert settings.overrides == {}


def test_other_names_are_plain_attributes():
    """The module may carry anything else, like any module."""
    private_settings.something = 1
    assert private_settings.something == 1
    del private_settings.something
    assert not hasattr(private_settings, "something")


def test_monkeypatch_and_mock_undo(monkeypatch):
    """Tests that patch the module leave no trace."""
    with monkeypatch.context() as patch:
        patch.setattr(private_settings, "WS4REDIS_EXPIRE", 5)
        assert settings.WS4REDIS_EXPIRE == 5
    assert settings.overrides == {}
    with mock.patch.object(private_settings, "WS4REDIS_EXPIRE", 6):
        assert settings.WS4REDIS_EXPIRE == 6
    with mock.patch("channels_ws4redis.settings.WS4REDIS_EXPIRE", 3600):
        assert settings.WS4REDIS_EXPIRE == 3600
    assert settings.overrides == {}


def test_connection_is_made_anew(redis_url, redis_client):
    """Assigning the connection moves even publishers that exist already."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher.publish_message("zero")
    private_settings.WS4REDIS_CONNECTION = redis_url.removesuffix("/0") + "/1"
    publisher.publish_message("one")
    del private_settings.WS4REDIS_CONNECTION
    assert redis_client.get("broadcast:foo") == b"zero"
    redis_client.select(1)
    assert redis_client.get("broadcast:foo") == b"one"


@override_settings(WS4REDIS_EXPIRE="soon")
def test_assignment_over_nonsense():
    """A wrong value in Django's settings does not keep anyone from assigning a right one."""
    private_settings.WS4REDIS_EXPIRE = 3
    assert settings.WS4REDIS_EXPIRE == 3
