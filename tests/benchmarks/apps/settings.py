"""Django settings that all contenders share, the legacy one on its old Django included."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

_redis_url = os.environ["BENCH_REDIS_URL"]
_redis = urlsplit(_redis_url)
_layer = os.environ.get("BENCH_LAYER", "none")

SECRET_KEY = "not a secret: loopback benchmarks only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "tests.benchmarks.apps.urls"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BENCH_DATABASE", ":memory:"),
    }
}
# By default the session is in the cookie and the user in the database: one query per socket, for
# everybody.
SESSION_ENGINE = f"django.contrib.sessions.backends.{os.environ['BENCH_SESSIONS']}"
# In a database of Redis's of its own, as that of the messages is emptied before each run.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": _redis._replace(path=f"/{int(_redis.path.strip('/') or 0) + 1}").geturl(),
    }
}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
]
# Errors go to the server's log, whose end is shown when a run has failed.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "ERROR"},
}

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION: dict[str, Any] = {
    "host": _redis.hostname or "127.0.0.1",
    "port": _redis.port or 6379,
    "db": int(_redis.path.strip("/") or 0),
    "password": _redis.password,
}
WS4REDIS_EXPIRE = 3600
WS4REDIS_PREFIX = "bench"

# redis-py 8 ends a read after five seconds, which is how long the core layer's own read takes.
_host = {"address": _redis_url, "socket_timeout": 60}
CHANNEL_LAYERS: dict[str, Any]
if _layer == "pubsub":
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [_host]},
        }
    }
elif _layer == "core":
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [_host]},
        }
    }
elif _layer == "own":
    INSTALLED_APPS += ["channels", "channels_ws4redis"]
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}}
else:
    CHANNEL_LAYERS = {}
