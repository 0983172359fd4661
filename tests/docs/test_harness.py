"""The pages of the manual are really followed: what is broken on a page is found."""

from __future__ import annotations

import os
import shutil
import textwrap
from pathlib import Path

import pytest

from tests.docs.blocks import PageError, parse_page
from tests.docs.project import Project, Worker


def follow(text: str, folder: Path, base: Path, worker: Worker) -> Project:
    """Follow a page of this text."""
    page = parse_page("page.md", textwrap.dedent(text))
    with Project(folder, base, worker, page) as project:
        project.follow()
    return project


def fence(language: str, text: str, comment: str = "") -> str:
    """A page of one block."""
    head = f"<!-- {comment} -->\n" if comment else ""
    return f"{head}```{language}\n{text}\n```\n"


MISUNDERSTOOD = {
    "an unknown comment": fence("python", "pass", "todo: a browser"),
    "a block without a language": fence("", "pass"),
    "an indented block": "Text.\n\n    $ ls\n",
    "a comment without a block": "<!-- file: a.py -->\nText.\n",
    "a comment at the end": "Text.\n\n<!-- file: a.py -->\n",
    "a file without a name": fence("python", "pass", "file:"),
    "no reason for not running": fence("python", "pass", "not run:"),
    "two things to do": "<!-- file: a.py -->\n" + fence("python", "pass", "append: a.py"),
    "a directive with code": fence("{code-block} python", "pass"),
}


@pytest.mark.parametrize("text", MISUNDERSTOOD.values(), ids=MISUNDERSTOOD)
def test_a_page_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(PageError, match=r"^page\.md:\d+: "):
        parse_page("page.md", text)


def test_blocks_in_lists_and_notes_are_found_with_their_lines() -> None:
    text = "1. Text:\n\n   ```python\n   one\n   ```\n\n```{note}\n~~~json\n2\n~~~\n```\n"
    blocks = parse_page("page.md", text).blocks
    assert [(block.where, block.text) for block in blocks] == [
        ("page.md:3", "one\n"),
        ("page.md:8", "2\n"),
    ]


ASGI_WITHOUT_SETTINGS = """\
from django.core.asgi import get_asgi_application

application = get_asgi_application()"""

BROKEN = {
    "no way to run": fence("cobol", "STOP RUN."),
    "python": fence("python", "import nowhere"),
    "python, await": fence("python", "import asyncio\nawait asyncio.sleep(0, 1 / 0)"),
    "setup": "<!-- setup\nraise ValueError\n-->\n" + fence("python", "pass"),
    "before": fence("python", "pass", "before: false"),
    "console": fence("console", "$ false"),
    "console, in the middle": fence("console", "$ false\n$ true"),
    "console, output": fence("console", "$ echo one\ntwo"),
    "console, output of another command": fence("console", "$ echo one\n$ echo two\none"),
    "console, no command": fence("console", "ls"),
    "runs on": fence("console", "$ echo begun\nready", "runs on"),
    "serves": fence("console", "$ true --port 8000", "serves"),
    "template": fence("html", "{% static 'a.js' %}"),
    "json": fence("json", "{'a': 1}"),
    "yaml": fence("yaml", "a: b: c"),
    "toml": fence("toml", "a = b"),
    "ini": fence("ini", "[a"),
    "lua": fence("lua", "return return"),
    "a file outside": fence("text", "a", "file: ../a.txt"),
    "a file, syntax": fence("python", "def", "file: mysite/views.py"),
    "a file, check": fence("python", "WS4REDIS_HISTORY = 0", "append: mysite/settings.py"),
    "a file, asgi": fence("python", ASGI_WITHOUT_SETTINGS, "file: mysite/asgi.py"),
    "a file, template": fence("html", "{% static 'a.js' %}", "file: templates/a.html"),
    "a file, yaml": fence("yaml", "a: b: c", "file: compose.yaml"),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_block_fails(text: str, tmp_path: Path, base: Path, worker: Worker) -> None:
    with pytest.raises(PageError, match=r"^page\.md:\d+: "):
        follow(text, tmp_path, base, worker)


REFUSED = {
    "node": fence("js", "const = 1;"),
    "nginx": fence("nginx", "location / { proxy_pas http://127.0.0.1:8000; }"),
    "caddy": fence("caddy", "example.com {\n    nonsense\n}"),
}


@pytest.mark.parametrize("program", REFUSED)
def test_what_a_program_refuses_fails(
    program: str, tmp_path: Path, base: Path, worker: Worker
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    with pytest.raises(PageError, match=f"{program} refuses it"):
        follow(REFUSED[program], tmp_path, base, worker)


WORKS = """\
    <!-- setup
    from channels_ws4redis.publisher import RedisPublisher
    word = "Hello"
    -->
    ```python
    import asyncio

    publisher = RedisPublisher(facility="page", broadcast=True)
    publisher.publish_message(word)
    await publisher.apublish_message("Hello again")
    ```

    ```html
    {% load ws4redis %}{{ word }}
    {% ws4redis "page" "subscribe-broadcast" %}
    ```

    <!-- append: mysite/settings.py -->
    ```python
    WS4REDIS_CONNECTION = {"host": "nowhere.example.com"}
    ```

    <!-- before: touch before.txt -->
    ```console
    $ ls before.txt
    before.txt
    $ export WORD=one
    $ echo $WORD \\
      two
    o...two
    ```

    ```console
    $ echo "$WORD"; python manage.py shell -c 'from django.conf import settings as s
    > print("at", s.WS4REDIS_CONNECTION)'
    one
    at redis://127.0.0.1:6379/0
    ```

    <!-- serves -->
    ```console
    $ python manage.py runserver
    ```

    ```console
    $ curl --silent --include http://localhost:8000/admin/login/
    HTTP/1.1 200 OK
    ```

    ```nginx
    upstream sockets {
        server 127.0.0.1:8000;
    }

    location /ws/ {
        proxy_pass http://sockets;
    }
    ```

    ```nginx
    server {
        listen 8443 ssl;
        ssl_certificate /etc/ssl/example.pem;
        ssl_certificate_key /etc/ssl/example.key;
    }
    ```

    ```caddy
    example.com {
        reverse_proxy 127.0.0.1:8000
    }
    ```

    ```js
    const { default: WS4Redis } = await import('/static/js/ws4redis.mjs');
    ```

    ```ini
    [Service]
    Environment=A=1
    Environment=B=%h
    ```

    ```lua
    return redis.call('PING')
    ```

    <!-- not run: needs another machine -->
    ```console
    $ ssh elsewhere
    ```
    """


@pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("curl", "node", "nginx", "caddy")),
    reason="needs curl, node, nginx and caddy",
)
def test_a_page_of_every_kind_of_block_works(tmp_path: Path, base: Path, worker: Worker) -> None:
    follow(WORKS, tmp_path, base, worker)


def test_a_page_may_begin_in_an_empty_folder(tmp_path: Path, base: Path, worker: Worker) -> None:
    page = "<!-- empty folder -->\n\n" + fence("console", "$ ls -A | wc -l\n0")
    follow(page, tmp_path, base, worker)


STAYS = """\
import os
import signal
import sys
import time


def bye(*_):
    time.sleep(0.5)
    open("bye.txt", "w").close()
    sys.exit()


signal.signal(signal.SIGTERM, bye)
print(os.getpid(), file=open("pid.txt", "w"))
print("It is ready.")
while True:
    signal.pause()"""


def test_what_a_page_has_started_ends_with_it_and_in_its_own_time(
    tmp_path: Path, base: Path, worker: Worker
) -> None:
    """The command itself is told to stop, and is waited for."""
    page = fence("python", STAYS, "file: stays.py")
    page += fence("console", "$ touch before.txt\n$ python stays.py\n...ready.", "runs on")
    project = follow(page, tmp_path, base, worker)
    assert (project.folder / "before.txt").exists()
    assert (project.folder / "bye.txt").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((project.folder / "pid.txt").read_text()), 0)
