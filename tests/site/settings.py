"""The demo's settings, with whatever the environment variable WS4REDIS_TEST_SETTINGS overrides.

It holds a JSON object of settings, so that a test can start a server with settings of its own.
"""

import json
import os
from pathlib import Path

from testproject.settings import *  # noqa: F403 # a settings module builds on another one this way

ROOT_URLCONF = "tests.site.urls"
ALLOWED_HOSTS = ["*"]
DEBUG = False
WS4REDIS_HEARTBEAT = None
WS4REDIS_HISTORY = 100
WS4REDIS_HISTORY_EXPIRE = 300
WS4REDIS_REPLAY = "last"
WS4REDIS_ALLOWED_CHANNELS = None
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"daphne.server": {"level": "INFO"}},  # says where it listens
}

# Pages for the tests in a browser, and a folder of files that such a test has fetched.
_SITE = Path(__file__).parent
TEMPLATES[0]["DIRS"] = [_SITE / "templates"]  # noqa: F405
_FETCHED = os.environ.get("WS4REDIS_TEST_STATIC")
STATICFILES_DIRS = [_SITE / "static", *([_FETCHED] if _FETCHED else [])]

globals().update(json.loads(os.environ.get("WS4REDIS_TEST_SETTINGS", "{}")))
