"""The how-to pages that lead to something in a browser lead there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from testproject.embedded import RedisServer
from tests.browser import Chromium, fetch_from_npm, wait_until
from tests.clients import Visitor
from tests.conftest import Serve
from tests.docs.blocks import Block, read_page
from tests.docs.project import Project, Worker
from tests.servers import ROOT

LINES = "[...document.querySelectorAll('#stock li')].map((line) => line.textContent)"


def the_block(blocks: tuple[Block, ...], text: str) -> Block:
    """Return the one block of a page that contains a text."""
    (found,) = [block for block in blocks if text in block.text]
    return found


@pytest.mark.browser
def test_a_page_shows_the_true_state_again_after_a_loss(
    tmp_path: Path, base: Path, worker: Worker, redis_client: redis.Redis
) -> None:
    """What was changed without a message shows once a wiped database has been noticed."""
    folder = tmp_path / "page"
    folder.mkdir()
    page = read_page(ROOT / "docs" / "howto" / "lost.md", ROOT)
    change = the_block(page.blocks, ".update(count=2)")
    notice = the_block(page.blocks, 'get(name="pears").save()')
    with Project(folder, base, worker, page) as project, Chromium(tmp_path) as browser:
        for block in page.blocks[: page.blocks.index(change)]:
            project.do(block)
        with browser.person() as john:
            window = john(project).open("/stock/")
            window.wait(LINES, ["apples: 3", "pears: 5"])
            window.wait("WS4Redis.sockets.stock.state", "open")
            project.do(change)
            redis_client.flushall()
            project.do(notice)
            window.wait(LINES, ["apples: 2", "pears: 5"])
            assert window.value("problems") == []


TASKS = "[...document.querySelectorAll('#tasks li')].map((line) => line.textContent)"

#: The libraries that a page loads: package, file in it, and where the page has it.
HTMX_4 = [
    ("htmx.org@4.0.1", "dist/htmx.min.js", "htmx/htmx.min.js"),
    ("htmx.org@4.0.1", "dist/ext/hx-ws.min.js", "htmx/hx-ws.min.js"),
]
HTMX_2 = [
    ("htmx.org@2.0.11", "dist/htmx.min.js", "htmx/htmx.min.js"),
    ("htmx-ext-ws@2.0.4", "dist/ws.min.js", "htmx/ws.min.js"),
]
TURBO = [("@hotwired/turbo@8.0.23", "dist/turbo.es2017-umd.js", "turbo/turbo.js")]

VIEWS = """
from django.shortcuts import render
from django.urls import path

from mysite.urls import urlpatterns
from tasks.models import Task


def show(request, name):
    return render(request, f"tasks/{name}.html", {"tasks": Task.objects.order_by("pk")})


urlpatterns.append(path("show/<name>", show))
"""

ADD = """
from django.template.loader import render_to_string
from channels_ws4redis.publisher import RedisPublisher
from tasks.models import Task

Task.objects.create(title={title!r})
html = render_to_string("tasks/{template}.html", {{"tasks": Task.objects.order_by("pk")}})
RedisPublisher(facility="tasks", broadcast=True).publish_message(html)
"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("names", "template", "libraries"),
    [
        pytest.param(["page", "page3"], "list", HTMX_4, id="htmx 4"),
        pytest.param(["page2", "page3"], "list", HTMX_2, id="htmx 2"),
        pytest.param(["page4"], "stream", TURBO, id="Turbo"),
    ],
)
def test_a_list_of_tasks_follows(
    tmp_path: Path,
    base: Path,
    worker: Worker,
    names: list[str],
    template: str,
    libraries: list[tuple[str, str, str]],
    redis_client: redis.Redis,
) -> None:
    """A fragment that Django publishes shows, also after a restart of the server."""
    folder = tmp_path / "page"
    folder.mkdir()
    page = read_page(ROOT / "docs" / "howto" / "htmx.md", ROOT)
    serve = Block("test", 1, "console", "$ python manage.py runserver --noreload", "serves")

    def add(title: str) -> None:
        source = ADD.format(title=title, template=template)
        assert worker.do("python", project.folder, source=source, setup="", page="add")[0] == 0

    with Project(folder, base, worker, page) as project, Chromium(tmp_path) as browser:
        project.follow()
        (project.folder / "mysite" / "show.py").write_text(VIEWS)
        with (project.folder / "mysite" / "settings.py").open("a") as settings:
            settings.write("ROOT_URLCONF = 'mysite.show'\n")
        for package, member, path in libraries:
            fetch_from_npm(package, member, project.folder / "tasks" / "static" / path)
        redis_client.flushall()  # of what the page has published, for another library
        project.do(serve)
        with browser.person() as john:
            windows = [john(project).open(f"/show/{name}") for name in names]
            add("sow")
            for window in windows:
                window.wait(TASKS, ["sow"])
            project.stop(project.port(8000))
            add("water")
            project.do(serve)
            for window in windows:
                window.wait(TASKS, ["sow", "water"], seconds=30)  # until it tries again
            if windows[0].value("!!document.querySelector('form')"):
                windows[0].run("document.querySelector('input[name=title]').value = 'reap'")
                windows[0].run("document.querySelector('form button').click()")
            else:
                add("reap")
            for window in windows:
                window.wait(TASKS, ["sow", "water", "reap"])
                assert window.value("problems") == []


async def test_a_user_with_few_rights_can_do_what_the_package_does(serve: Serve) -> None:
    """The rule of the page on Redis is enough, also while nothing is published."""
    page = read_page(ROOT / "docs" / "howto" / "redis.md", ROOT)
    rule = the_block(page.blocks, "user mysite on").text.split()[1:]
    with RedisServer(port=0) as server, redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", *rule)
        url = server.url.replace("//", "//mysite:secret@")
        site = serve(settings={"WS4REDIS_PREFIX": "mysite"}, REDIS_URL=url)
        visitor = Visitor(site)
        async with visitor.socket("/ws/news?subscribe-broadcast") as socket:
            await asyncio.to_thread(wait_until, lambda: has_pinged(admin), True)
            await visitor.publish("Hello", facility="news", broadcast=True)
            assert await socket.receive() == "Hello"
        # redis-py tells its own name, and goes on if it may not.
        assert {entry["object"] for entry in admin.acl_log()} <= {"client|setinfo"}
        assert admin.exists("mysite:broadcast:news")


def has_pinged(admin: redis.Redis) -> bool:
    """Tell whether a process has asked Redis for a sign of life."""
    return any(client["cmd"] == "ping" for client in admin.client_list(_type="pubsub"))
