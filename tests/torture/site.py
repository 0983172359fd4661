"""The settings of the tortured site; a module of Django settings."""

import os
from typing import Any

SECRET_KEY = "only-for-the-torture-test"  # guards nothing
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "channels",
    "channels_ws4redis",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
ROOT_URLCONF = "channels_ws4redis.urls"
USE_TZ = True

STOCK = bool(os.environ.get("WS4REDIS_TORTURE_STOCK"))
WS4REDIS_CONNECTION = os.environ.get("WS4REDIS_TORTURE_REDIS", "")
WS4REDIS_HISTORY = 400
WS4REDIS_CLOSE_WINDOW = 1.0

_LAYER: dict[str, Any] = {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}
if STOCK:
    _LAYER = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": WS4REDIS_CONNECTION, "socket_timeout": None}]},
    }
CHANNEL_LAYERS = {"default": _LAYER}
