"""django-eventstream, as its documentation says for several processes: settings, URLs and all."""

# mypy: ignore-errors
# Everything here lives in an environment of its own, see tests/benchmarks/eventstream.py.

from __future__ import annotations

import os
from urllib.parse import urlsplit

import django
from django.core.asgi import get_asgi_application
from django.urls import include, path

_redis = urlsplit(os.environ["BENCH_REDIS_URL"])

# This module is its own settings.
SECRET_KEY = "not a secret: loopback benchmarks only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = __name__
INSTALLED_APPS = ["django_eventstream"]
EVENTSTREAM_REDIS = {"host": _redis.hostname, "port": _redis.port, "db": 0}
LOGGING_CONFIG = None


def __getattr__(name: str):
    if name == "urlpatterns":  # late, as what is included reads the settings
        events = include("django_eventstream.urls")
        return [path("events/", events, {"channels": ["bench"]})]
    if name == "application":
        django.setup()
        return get_asgi_application()
    raise AttributeError(name)
