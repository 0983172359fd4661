"""The command that renames the package in code of the original."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from channels_ws4redis.port.__main__ import main
from channels_ws4redis.port.files import port
from tests.servers import ROOT

LEGACY_SITE = ROOT / "tests" / "legacy_site"


def rewritten(source: str, name: str = "code.py") -> str:
    """Return a file's new content; nothing is left to decide."""
    data, notes = port(Path(name), source.encode())
    assert notes == []
    return data.decode()


def notes_on(source: str) -> list[tuple[int, str]]:
    """Return what somebody has to decide about a module of Python."""
    return [tuple(note) for note in port(Path("code.py"), source.encode())[1]]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in a folder of its own; returns status, output and messages."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


# Each place of the marker » is where the new letters go; without one the line stays as it is.

IMPORTS = """
import »ws4redis
import »ws4redis.publisher
import os, »ws4redis.publisher, »ws4redis.subscriber as s
import »ws4redis.settings as private_settings; import json
from »ws4redis import settings as private_settings
from »ws4redis.publisher import RedisPublisher
from »ws4redis.redis_store import (  # ws4redis
    SELF,
    RedisMessage,
)
from \\
    »ws4redis.publisher import RedisPublisher
from\t»ws4redis.models import store_groups_in_session
try:
    from »ws4redis.exceptions import WebSocketError
except ImportError: pass
def later():
    from »ws4redis.publisher import RedisPublisher as Publisher
from .ws4redis import mine
from . import publisher
from mine.ws4redis import publisher
import ws4redis_extra, mine.ws4redis
from ws4redis_extra import publisher
import channels_ws4redis
"""

USES = """
import »ws4redis.publisher
»ws4redis.publisher.RedisPublisher(facility="x")
class P(»ws4redis.publisher.RedisPublisher): pass
def f(p: »ws4redis.publisher.RedisPublisher = »ws4redis.x) -> "»ws4redis.publisher.RedisPublisher":
    é = "ü"; return »ws4redis.publisher
os.path.dirname(»ws4redis.__file__)
self.ws4redis.publisher
request.ws4redis = {"a": mine.ws4redis}
f(ws4redis=1)
f"{»ws4redis.publisher}"
# ws4redis.publisher
"""

SETTINGS = """
WS4REDIS_PREFIX = 'ws4redis'
WS4REDIS_PREFIX = os.environ.get("PREFIX", 'ws4redis')
CONFIG = {"WS4REDIS_PREFIX": "ws4redis"}
WS4REDIS_SUBSCRIBER = '»ws4redis.subscriber.RedisSubscriber'
WSGI_LIKE = (r"»ws4redis."
             "subscriber.RedisSubscriber")
TEMPLATES = [{"OPTIONS": {"context_processors": ["»ws4redis.context_processors.default"]}}]
INSTALLED_APPS = ["mine", "»ws4redis"]
INSTALLED_APPS += ('»ws4redis',)
INSTALLED_APPS = INSTALLED_APPS + ["»ws4redis"]
INSTALLED_APPS: list[str] = [*MORE, u"»ws4redis"]
INSTALLED_APPS.append(\"\"\"»ws4redis\"\"\")
INSTALLED_APPS.insert(0, "»ws4redis")
settings.INSTALLED_APPS.extend(["»ws4redis"])
globals()["INSTALLED_APPS"] = ["»ws4redis"]
third_party_apps = "»ws4redis", "other"
PARTS = ["django.contrib.auth", "»ws4redis"]
INSTALLED_APPS = config("EXTRA", default=["»ws4redis"]) if "»ws4redis" in INSTALLED_APPS else []
settings.configure(INSTALLED_APPS=["»ws4redis"], WS4REDIS_PREFIX="ws4redis")
MORE = {"INSTALLED_APPS": ["»ws4redis"]}
LOGGING = {"loggers": {"»ws4redis": {"handlers": ["console"]}, "»ws4redis.subscriber": {}}}
STATICFILES_DIRS = ["/venv/site-packages/»ws4redis/static", "ws4redis/mine", "my-ws4redis/static"]
"""

TEXTS = """
apps.is_installed("»ws4redis")
apps.get_app_config("ws4redis")
class Meta: app_label = "ws4redis"
import_module("»ws4redis"); importlib.import_module('»ws4redis.publisher')
ws = pytest.importorskip("»ws4redis")
if "»ws4redis" in sys.modules: del sys.modules["»ws4redis"]
mock.patch("»ws4redis.publisher.RedisPublisher")
request.session["ws4redis:memberof"] = ["staff"]
with modify_settings(INSTALLED_APPS={"append": "»ws4redis"}): pass
static("js/ws4redis.js"), "ws4redis.js", "ws4redis.min.js"
SILENCED_SYSTEM_CHECKS = ["ws4redis.W007"]; subprotocols = ["ws4redis.v1"]
'''What ws4redis.publisher was for.'''
"{% load ws4redis %}{% static 'js/ws4redis.js' %}"
cache.get("ws4redis-cache")
"""


@pytest.mark.parametrize("marked", [IMPORTS, USES, SETTINGS, TEXTS])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_where_the_package_is_named(marked, newline):
    """The name changes where it is the package's, and nowhere else."""
    marked = marked.replace("\n", newline)
    assert rewritten(marked.replace("»", "")) == marked.replace("»", "channels_")


def test_a_name_that_is_also_something_else():
    """Where the name is bound otherwise too, the package keeps it by ``as``."""
    source = """
        try:
            import ws4redis
            import ws4redis.publisher, os
        except ImportError:
            ws4redis = None
        if ws4redis: ws4redis.publisher
        """
    assert rewritten(textwrap.dedent(source)) == textwrap.dedent("""
        try:
            import channels_ws4redis as ws4redis
            import channels_ws4redis.publisher, channels_ws4redis as ws4redis, os
        except ImportError:
            ws4redis = None
        if ws4redis: ws4redis.publisher
        """)


@pytest.mark.parametrize(
    "binding",
    [
        "def f(ws4redis): return ws4redis",
        "def f():\n    global ws4redis",
        "from mine import ws4redis",
        "from mine import x as ws4redis",
        "import mine as ws4redis",
        "for ws4redis in (): pass",
        "try: pass\nexcept E as ws4redis: pass",
        "class ws4redis: pass",
        "lambda ws4redis: ws4redis",
        "match x:\n    case {'a': ws4redis}: pass",
    ],
)
def test_every_way_to_bind_a_name(binding):
    """A name of the project's own stays, with an import of the package beside it or not."""
    assert rewritten(binding) == binding
    assert rewritten(f"import ws4redis\n{binding}") == (
        f"import channels_ws4redis as ws4redis\n{binding}"
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 'ws4redis'", "'ws4redis' stays"),
        ("mock.patch('mine.tasks.ws4redis.publisher')", "stays"),
        ("'ws4redis.%s' % 'publisher'", "stays"),
        ("x: 'list[ws4redis.publisher.RedisPublisher]'", "stays"),
        ("import_module(f'ws4redis.{name}')", "if this names the package"),
        ("a = 'ws4\\x72edis.publisher'  # ws4redis", "here"),
        ("from ws4redis.uwsgi_runserver import uWSGIWebsocketServer", "asgi.py"),
        ("WSGI_APPLICATION = 'ws4redis.django_runserver.application'", "asgi.py"),
        ("from ws4redis import wsgi_server", "remove what uses it"),
        ("import ws4redis.websocket", "remove what uses it"),
    ],
)
def test_what_is_left_to_decide(source, words):
    """What may be the package's name, or has no successor, is told with its line."""
    [(line, text)] = notes_on("\n" + source)
    assert line == 2
    assert words in text


def test_other_files():
    """Paths in configuration change, and the folder of the static files anywhere; no JavaScript."""
    subscriber = "WS4REDIS_SUBSCRIBER=»ws4redis.subscriber.RedisSubscriber\n"
    for name in ("deploy.yml", ".env", "setup.cfg", "Procfile", "pyproject.toml"):
        marked = f"{subscriber}WS4REDIS_PREFIX=ws4redis\n"
        assert rewritten(marked.replace("»", ""), name) == marked.replace("»", "channels_")
    for name in ("page.html", "gulpfile.js"):
        marked = "{% load ws4redis %}{% static 'js/ws4redis.js' %}copy('../»ws4redis/static/js')"
        marked += "ws4redis.settings(ws4redis.publisher)"
        assert rewritten(marked.replace("»", ""), name) == marked.replace("»", "channels_")
    for name in ("binary", "photo.png", "notes.md"):
        assert rewritten("\0ws4redis.publisher ws4redis/static", name) == (
            "\0ws4redis.publisher ws4redis/static"
        )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-8 without a line end"])
def test_every_byte_but_the_name_stays(encoding):
    """Whatever the encoding, the line ends and the white space."""
    codec = encoding.split()[0]
    declared = "# coding: latin-1\r\n" if codec == "latin-1" else ""
    text = f"{declared}é = 'ü' ;from ws4redis.publisher import RedisPublisher  \t\r\n\x0c\r\nx\n"
    before = text.strip().encode(codec) if " " in encoding else text.encode(codec)
    after, _ = port(Path("code.py"), before)
    assert after == before.replace(b"ws4redis", b"channels_ws4redis")


def test_a_script_without_an_ending():
    """It is known by its first line."""
    source = "#!/usr/bin/env python3\nimport ws4redis\nprint(ws4redis)\n"
    assert rewritten(source, "notify") == source.replace("ws4redis", "channels_ws4redis")


def test_the_change_is_shown_and_then_made(run, tmp_path):
    """Without --write nothing is changed; the status says whether there is something to change."""
    before = b"from ws4redis.publisher import RedisPublisher\r\n"
    (tmp_path / "tasks.py").write_bytes(before)
    (tmp_path / "other.py").write_text("import this\n")
    status, shown, said = run(".")
    assert status == 1
    assert shown.splitlines() == [
        "--- tasks.py",
        "+++ tasks.py",
        "@@ -1 +1 @@",
        "-from ws4redis.publisher import RedisPublisher",
        "+from channels_ws4redis.publisher import RedisPublisher",
    ]
    assert said == "1 file would change; --write changes them.\n"
    assert (tmp_path / "tasks.py").read_bytes() == before
    assert run("--write", ".") == (0, "", "1 file changed.\n")
    assert (tmp_path / "tasks.py").read_bytes() == b"from channels_" + before.removeprefix(b"from ")
    assert run(".", "tasks.py") == (0, "", "Nothing to change.\n")


def test_what_cannot_be_read_does_not_hinder_the_others(run, tmp_path):
    """The line is told, the other files are changed, and the status is 2."""
    (tmp_path / "a.py").write_text("import ws4redis\nprint 'old'\n")
    (tmp_path / "b.py").write_text("import ws4redis\n")
    (tmp_path / "c.py").write_bytes(b"import ws4redis # \xff\n")
    (tmp_path / "d.py").write_bytes(b"\n\nimport ws4redis # \xff\n")
    status, _, said = run("--write", ".")
    assert status == 2
    assert "a.py:2: no Python 3." in said
    assert "c.py:1: no Python 3." in said
    assert "d.py: 'utf-8' codec" in said
    assert (tmp_path / "b.py").read_text() == "import channels_ws4redis\n"


def test_what_is_not_the_projects_own_is_left_alone(run, tmp_path):
    """Environments, packages of node, hidden folders, a copy of the original, what is no file."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "ws4redis").mkdir()
    (tmp_path / "ws4redis" / "redis_store.py").touch()
    for folder in ("env", "ws4redis", ".git", "node_modules", "lib/site-packages"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "code.py").write_text("import ws4redis\n")
    (tmp_path / "link.py").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.py")
    assert run("--write", ".") == (0, "", "0 files changed.\n")
    status, _, said = run("ws4redis")
    assert status == 2
    assert "ws4redis is django-websocket-redis itself; remove it" in said


@pytest.mark.parametrize(
    "coding", ["rot13", "unicode_escape", "raw_unicode_escape", "utf-7", "undefined", "no-such"]
)
def test_an_encoding_that_would_spoil_the_file(run, tmp_path, coding):
    """The file stays as it is, and is told; the others are changed."""
    odd = f"# coding: {coding}\nimport ws4redis\nx = '\\xe9 \\u00e9 +AOk-'\n".encode()
    (tmp_path / "a.py").write_bytes(odd)
    (tmp_path / "b.py").write_text("import ws4redis\n")
    status, _, said = run("--write", ".")
    assert status == 2
    assert "a.py:" in said
    assert (tmp_path / "a.py").read_bytes() == odd
    assert (tmp_path / "b.py").read_text() == "import channels_ws4redis\n"


@pytest.mark.parametrize("depth", [5_000, 50_000])
def test_an_expression_that_is_too_deep(run, tmp_path, depth):
    """Python itself gives it up, by one error or another."""
    (tmp_path / "a.py").write_text(f"import ws4redis\nx = {'-' * depth}1\n")
    (tmp_path / "b.py").write_text("import ws4redis\n")
    status, _, said = run("--write", ".")
    assert status == 2
    assert "a.py" in said
    assert (tmp_path / "b.py").read_text() == "import channels_ws4redis\n"


def test_a_link_out_of_the_folder_is_not_followed(run, tmp_path):
    """Somebody else's file stays as it is; a link within the folder leads to one's own."""
    (tmp_path / "theirs.py").write_text("import ws4redis\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text("import ws4redis\n")
    (tmp_path / "mine" / "out.py").symlink_to(tmp_path / "theirs.py")
    (tmp_path / "mine" / "within.py").symlink_to("own.py")
    assert run("--write", "mine") == (0, "", "1 file changed.\n")
    assert (tmp_path / "theirs.py").read_text() == "import ws4redis\n"
    assert (tmp_path / "mine" / "own.py").read_text() == "import channels_ws4redis\n"


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["--wirte", "."]])
def test_a_call_that_makes_no_sense(run, arguments):
    """The status is 2, as it is of every command of Python."""
    status, _, said = run(*arguments)
    assert status == 2
    assert said.startswith("usage: python -m channels_ws4redis.port ")


def test_a_ported_project_runs(tmp_path):
    """The example project is imported by the new name alone, without Django while it is ported."""
    shutil.copytree(LEGACY_SITE, tmp_path / "tests" / "legacy_site")
    (tmp_path / "tests" / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment |= {"DJANGO_SETTINGS_MODULE": "tests.legacy_site.settings"}
    python = [sys.executable, "-W", "error"]
    command = [*python, "-X", "importtime", "-m", "channels_ws4redis.port", "--write", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "django" not in {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    for path in (tmp_path / "tests" / "legacy_site").rglob("*.*"):
        before = (LEGACY_SITE / path.relative_to(tmp_path / "tests" / "legacy_site")).read_bytes()
        bare = path.read_bytes().replace(b"channels_ws4redis", b"ws4redis")
        assert bare == before.replace(b"channels_ws4redis", b"ws4redis")
    code = (
        "import sys, django; sys.modules['ws4redis'] = None; django.setup()\n"
        "import tests.legacy_site.views, tests.legacy_site.subscribers\n"
        "from django.conf import settings\n"
        "from django.utils.module_loading import import_string\n"
        "assert settings.WS4REDIS_PREFIX == 'demo'\n"
        "import_string(settings.WS4REDIS_SUBSCRIBER)\n"
        "import_string(settings.TEMPLATES[0]['OPTIONS']['context_processors'][-1])\n"
    )
    subprocess.run([*python, "-c", code], cwd=tmp_path, env=environment, check=True)
