"""The settings of the site of the torture mode ``pages``; a module of Django settings."""

import os

from tests.torture.site import *  # noqa: F403 # as a module of settings is extended
from tests.torture.site import INSTALLED_APPS as OTHERS
from tests.torture.site import WS4REDIS_CONNECTION as ADDRESS

INSTALLED_APPS = [*OTHERS, "tests.torture"]
ROOT_URLCONF = "tests.torture.pages_views"
STATIC_URL = "/static/"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("WS4REDIS_TORTURE_DATABASE", ":memory:"),
        "OPTIONS": {"timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# So that a Redis that is silent for two seconds has let commands time out.
WS4REDIS_CONNECTION = {"url": ADDRESS, "socket_timeout": 1.0}
