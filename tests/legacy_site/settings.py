"""Settings of a project for the legacy package."""

import os
from urllib.parse import urlsplit

_redis = urlsplit(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))

SECRET_KEY = "only-for-the-demo-and-the-tests"
DEBUG = True
ALLOWED_HOSTS = ["*"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ws4redis",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

ROOT_URLCONF = "tests.legacy_site.urls"
WSGI_APPLICATION = "ws4redis.django_runserver.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [os.path.join(os.path.dirname(__file__), "templates")],  # noqa: PTH118, PTH120
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "ws4redis.context_processors.default",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("WS4REDIS_TEST_DATABASE", ":memory:"),
        "OPTIONS": {"timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = True
STATIC_URL = "/static/"
# jQuery and the original ws4redis.js, for the browser tests.
STATICFILES_DIRS = [path for path in [os.environ.get("LEGACY_STATIC")] if path]

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {"host": _redis.hostname, "port": str(_redis.port), "db": 0, "password": ""}
WS4REDIS_EXPIRE = 3600
WS4REDIS_PREFIX = "demo"
WS4REDIS_SUBSCRIBER = os.environ.get("LEGACY_SUBSCRIBER", "ws4redis.subscriber.RedisSubscriber")
WS4REDIS_HEARTBEAT = os.environ.get("LEGACY_HEARTBEAT") or None

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
