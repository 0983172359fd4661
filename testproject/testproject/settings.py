"""Settings of the demo, which are the settings of the tests too.

Read from the environment:

REDIS_URL               the Redis server to use in place of the embedded one
WS4REDIS_TEST_LAYER     the channel layer: redis (the package's own), pubsub, core or memory
WS4REDIS_TEST_DATABASE  the SQLite file
"""

import os
from typing import Any

from testproject.embedded import running_url
from testproject.paths import REDIS_URL_FILE, VAR_DIR

VAR_DIR.mkdir(exist_ok=True)

SECRET_KEY = "only-for-the-demo-and-the-tests"  # noqa: S105 - guards nothing
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "testserver"]

INSTALLED_APPS = [
    "daphne",
    "channels",
    "channels_ws4redis",
    "chat",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "chat.middleware.ContentSecurityPolicyMiddleware",
]

ROOT_URLCONF = "testproject.urls"
ASGI_APPLICATION = "testproject.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "channels_ws4redis.context_processors.default",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("WS4REDIS_TEST_DATABASE", VAR_DIR / "db.sqlite3"),
        "OPTIONS": {"timeout": 20},  # seconds; the tests run several server processes on one file
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Fast, because the tests log in a lot; the demo's passwords are public anyway.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "chat"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"

# One place that names the Redis server: the environment, else the embedded server that
# `manage.py demo` or `manage.py runserver` has started, else the usual address.
REDIS_URL = os.environ.get("REDIS_URL") or running_url(REDIS_URL_FILE) or "redis://127.0.0.1:6379/0"

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = REDIS_URL
WS4REDIS_ALLOWED_CHANNELS = "chat.permissions.allowed_channels"
WS4REDIS_EXPIRE = 3600
WS4REDIS_HEARTBEAT = "--heartbeat--"
WS4REDIS_HISTORY = 120  # a minute of the dashboard
WS4REDIS_HISTORY_EXPIRE = 3600
WS4REDIS_REPLAY = "all"  # whoever comes later sees what was said

# The stock layers' connections; redis-py 8 would end the core layer's blocking reads otherwise.
_STOCK_CONFIG: dict[str, Any] = {"hosts": [{"address": REDIS_URL, "socket_timeout": None}]}
# Messages that may wait for a whole process; beyond the default of 100 these layers drop them.
_CAPACITY = 10_000
_LAYERS: dict[str, dict[str, Any]] = {
    "redis": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"},
    "pubsub": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": _STOCK_CONFIG,
    },
    "core": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": _STOCK_CONFIG | {"capacity": _CAPACITY},
    },
    "memory": {
        "BACKEND": "channels.layers.InMemoryChannelLayer",
        "CONFIG": {"capacity": _CAPACITY},
    },
}
CHANNEL_LAYERS = {"default": _LAYERS[os.environ.get("WS4REDIS_TEST_LAYER", "redis")]}
