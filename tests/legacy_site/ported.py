"""The same project on this package: one line, and what every ASGI project has.

The environment variable WS4REDIS_TEST_SETTINGS holds a JSON object of further settings.
"""

import json
import os
from typing import Any

import channels_ws4redis

channels_ws4redis.install_as_ws4redis()

from tests.legacy_site.settings import *  # noqa: E402, F403 # a settings module builds on another
from tests.legacy_site.settings import INSTALLED_APPS  # noqa: E402

INSTALLED_APPS = ["daphne", "channels", *INSTALLED_APPS]
ASGI_APPLICATION = "tests.legacy_site.asgi.application"
CHANNEL_LAYERS: dict[str, Any] = {
    "default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}
}
del WSGI_APPLICATION  # noqa: F821 # comes with the star

# For the tests alone.
ROOT_URLCONF = "tests.legacy_site.ported_urls"
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"daphne.server": {"level": "INFO"}},  # says where it listens
}
if os.environ.get("WS4REDIS_TEST_LAYER") == "memory":
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

globals().update(json.loads(os.environ.get("WS4REDIS_TEST_SETTINGS", "{}")))
