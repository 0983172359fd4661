"""Try the installed package; `make wheel` runs this where nothing but the package is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files

import django
from django.conf import settings
from django.core.management import call_command
from django.template import engines

settings.configure(
    INSTALLED_APPS=[
        "daphne",
        "channels",
        "channels_ws4redis",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    ROOT_URLCONF="channels_ws4redis.urls",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    SECRET_KEY="x",
    STATIC_URL="/static/",
)
django.setup()
for module in ("consumers", "publisher", "routing"):
    import_module(f"channels_ws4redis.{module}")
call_command("check")
engines["django"].from_string("{% load ws4redis %}")

package = files("channels_ws4redis")
assert "site-packages" in str(package), package
for name in (
    "py.typed",
    "static/js/ws4redis.js",
    "store/publish.lua",
    "store/queue_put.lua",
    "store/read.lua",
    "templatetags/ws4redis.py",
):
    assert (package / name).is_file(), f"{name} is not in the wheel"
print("The wheel imports from", package)
