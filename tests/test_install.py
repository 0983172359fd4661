"""Keeping the name ws4redis, each time in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.servers import ROOT

SETTINGS = """
import channels_ws4redis
channels_ws4redis.install_as_ws4redis()
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes",
                    "django.contrib.staticfiles", "ws4redis"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS":
                {"context_processors": ["ws4redis.context_processors.default"]}}],
    WS4REDIS_SUBSCRIBER="ws4redis.subscriber.RedisSubscriber",
    WS4REDIS_HEARTBEAT="--heartbeat--",
    WS4REDIS_CONNECTION={"host": "localhost", "port": "6379", "password": ""},
    STATIC_URL="/static/",
    ALLOWED_HOSTS=["example.com"],
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    CHANNEL_LAYERS={"default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}},
)
import django
django.setup()
"""


def run(code: str, *, path: str = "") -> str:
    """Run code in an interpreter of its own, in which every warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{path}:{ROOT}", "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_same_modules():
    """Every module of the legacy package is the very module of this one, in either order."""
    run(SETTINGS + "import ws4redis.publisher, channels_ws4redis.redis_store\n"
        "import ws4redis, ws4redis.redis_store, channels_ws4redis.publisher\n"
        "from importlib import import_module, reload\n"
        "assert ws4redis is channels_ws4redis\n"
        "for name in ('publisher', 'redis_store', 'subscriber', 'context_processors', 'settings',\n"
        "             'exceptions', 'models', 'django_runserver', 'uwsgi_runserver'):\n"
        "    module = import_module('ws4redis.' + name)\n"
        "    assert module is import_module('channels_ws4redis.' + name), name\n"
        "    assert module.__spec__.name == module.__name__ == 'channels_ws4redis.' + name\n"
        "from ws4redis.publisher import RedisPublisher, redis_connection_pool\n"
        "from ws4redis.redis_store import RedisMessage, RedisStore, SELF\n"
        "assert issubclass(RedisPublisher, RedisStore)\n"
        "assert redis_connection_pool.connection_kwargs['port'] == 6379\n"
        "reload(ws4redis.exceptions)\n")  # fmt: skip


def test_unknown_modules():
    """A module that this package has not is not found under the legacy name either."""
    run(SETTINGS + "import importlib.util\n"
        "assert importlib.util.find_spec('ws4redis.wsgi_server') is None\n"
        "try:\n    import ws4redis.websocket\n"
        "except ModuleNotFoundError as error:\n    assert error.name == 'ws4redis.websocket'\n"
        "else:\n    raise AssertionError\n")  # fmt: skip


def test_installed_app():
    """'ws4redis' in INSTALLED_APPS is this app, with its static files and system checks."""
    run(SETTINGS + "from django.apps import apps\n"
        "from django.contrib.staticfiles import finders\n"
        "from django.core.checks import run_checks\n"
        "config = apps.get_app_config('ws4redis')\n"
        "assert config.name == 'channels_ws4redis'\n"
        "found = finders.find('js/ws4redis.js')\n"
        "assert found.endswith('channels_ws4redis/static/js/ws4redis.js')\n"
        "assert [each.id for each in run_checks()] == ['ws4redis.W005']\n")  # fmt: skip


def test_context_processor():
    """The context processor works under its legacy name, behind a TLS proxy too."""
    run(SETTINGS + "from django.template import engines\n"
        "from django.test import RequestFactory\n"
        "request = RequestFactory().get('/', headers={'host': 'example.com',\n"
        "                               'X-Forwarded-Proto': 'https'})\n"
        "template = engines['django'].from_string('{{ WEBSOCKET_URI }} {{ WS4REDIS_HEARTBEAT }}')\n"
        "text = template.render({}, request)\n"
        "assert text == 'wss://example.com/ws/ \"--heartbeat--\"', text\n")  # fmt: skip


def test_subscriber_setting():
    """The stock subscriber under its legacy name is known to be the stock one."""
    run(SETTINGS + "from channels_ws4redis.subscriber import RedisSubscriber, subscriber_class\n"
        "assert subscriber_class() is RedisSubscriber\n")  # fmt: skip


def test_twice_is_once():
    """Calling it again, as an autoreloader does, changes nothing."""
    run("import sys, channels_ws4redis\n"
        "channels_ws4redis.install_as_ws4redis()\n"
        "before = list(sys.meta_path)\n"
        "channels_ws4redis.install_as_ws4redis()\n"
        "assert sys.meta_path == before\n")  # fmt: skip


def test_needs_no_django():
    """It may be called before Django is imported, let alone set up."""
    assert run("import sys, channels_ws4redis\n"
               "channels_ws4redis.install_as_ws4redis()\n"
               "print([name for name in sys.modules if name.startswith('django')])\n"
               ) == "[]\n"  # fmt: skip


def test_original_imported_before(tmp_path):
    """If the original package has been imported already the error tells what to do."""
    (tmp_path / "ws4redis").mkdir()
    (tmp_path / "ws4redis" / "__init__.py").touch()
    run("import ws4redis, channels_ws4redis\n"
        "try:\n    channels_ws4redis.install_as_ws4redis()\n"
        "except RuntimeError as error:\n    assert 'at the top of the settings' in str(error)\n"
        "else:\n    raise AssertionError\n", path=str(tmp_path))  # fmt: skip


def test_original_installed(tmp_path):
    """If the original is installed but not imported yet, this package wins."""
    (tmp_path / "ws4redis").mkdir()
    (tmp_path / "ws4redis" / "__init__.py").write_text("raise RuntimeError")
    run(SETTINGS + "import ws4redis.publisher", path=str(tmp_path))


@pytest.mark.parametrize(
    "use",
    [
        "from ws4redis.django_runserver import application\napplication({}, None)",
        "from ws4redis.uwsgi_runserver import uWSGIWebsocketServer\nuWSGIWebsocketServer()",
    ],
)
def test_entry_points(use):
    """The entry points of legacy raise an error that tells what to write in asgi.py."""
    run(SETTINGS + "from django.core.exceptions import ImproperlyConfigured\n"
        "try:\n" + "".join(f"    {line}\n" for line in use.splitlines()) +
        "except ImproperlyConfigured as error:\n"
        "    for words in ('asgi.py', 'ProtocolTypeRouter', 'ASGI_APPLICATION', 'daphne'):\n"
        "        assert words in str(error)\n"
        "else:\n    raise AssertionError\n")  # fmt: skip
