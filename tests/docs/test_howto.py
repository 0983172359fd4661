"""The how-to pages that lead to something in a browser lead there."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from websockets.sync.client import connect

from testproject.embedded import RedisServer
from tests.browser import PATIENCE, Chromium, give_up, wait_until
from tests.clients import Visitor
from tests.conftest import Serve
from tests.docs.blocks import Block, Page, PageError, read_page
from tests.docs.project import Project, Worker
from tests.servers import ROOT

#: The server of a page that has none of its own.
SERVE = Block("test", 1, "console", "$ python manage.py runserver --noreload", "serves")

LINES = "[...document.querySelectorAll('#stock li')].map((line) => line.textContent)"


def how_to(name: str) -> Page:
    """Return one of the pages of this kind."""
    return read_page(ROOT / "docs" / "howto" / name, ROOT)


def the_block(blocks: tuple[Block, ...], text: str) -> Block:
    """Return the one block of a page that contains a text."""
    (found,) = [block for block in blocks if text in block.text]
    return found


@pytest.mark.browser
def test_a_page_shows_the_true_state_again_after_a_loss(
    tmp_path: Path, folder: Path, base: Path, worker: Worker, redis_client: redis.Redis
) -> None:
    """What was changed without a message shows once a wiped database has been noticed."""
    page = how_to("lost.md")
    with Project(folder, base, worker, page) as project, Chromium(tmp_path) as browser:
        change, notice = make_goods(project, page)
        with browser.person() as john:
            window = john(project).open("/stock/")
            window.wait(LINES, ["apples: 3", "pears: 5"])
            window.wait("socket.state", "open")
            project.do(change)
            redis_client.flushall()
            project.do(notice)
            window.wait(LINES, ["apples: 2", "pears: 5"])
            assert window.value("problems") == []


def serve_urls(project: Project, urls: str) -> None:
    """Start the server of a page, with a module of URLs in place of the project's own."""
    (project.folder / "mysite" / "more_urls.py").write_text(urls)
    with (project.folder / "mysite" / "settings.py").open("a") as settings:
        settings.write("ROOT_URLCONF = 'mysite.more_urls'\n")
    project.do(SERVE)


def make_goods(project: Project, page: Page) -> tuple[Block, Block]:
    """Follow the page on lost messages until there are goods.

    Returns what changes them without a message, and what makes that noticed.
    """
    change = the_block(page.blocks, ".update(count=2)")
    for block in page.blocks[: page.blocks.index(change)]:
        project.do(block)
    return change, the_block(page.blocks, 'get(name="pears").save()')


BOTH = """
from mysite import urls
from stock import views
from django.urls import path

urlpatterns = [*urls.urlpatterns, path("stock/state/", views.state)]
"""


@pytest.mark.browser
def test_a_component_of_react_shows_the_true_state(
    tmp_path: Path, folder: Path, base: Path, worker: Worker, redis_client: redis.Redis
) -> None:
    """The front end passes its type checker, and what is built of it follows, also after a loss."""
    lost, react = how_to("lost.md"), how_to("react.md")
    with Project(folder, base, worker, lost) as project, Chromium(tmp_path) as browser:
        change, notice = make_goods(project, lost)
        for block in react.blocks:
            if "npm create" in block.text:
                fetch(project, block, "npm create vite@latest", "npm create --yes vite@9.3.0")
            elif "run build" in block.text:
                project.do(replace(block, marker=""))
            else:
                project.do(block)
        serve_urls(project, BOTH)
        with browser.person() as john:
            window = john(project).open("/app/").wait(LINES, ["apples: 3", "pears: 5"])
            project.do(change)
            redis_client.flushall()
            project.do(notice)
            window.wait(LINES, ["apples: 2", "pears: 5"])
            assert window.value("problems") == []


ORDER = "document.getElementById('order').textContent"
DESK_LINE = "document.getElementById('desk').textContent"
NOTICES = "[...document.querySelectorAll('#inbox li')].map((line) => line.textContent)"

#: The door of a project that has no page for logging in.
ENTER = """
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.shortcuts import redirect
from django.urls import path

from mysite.urls import urlpatterns


def enter(request, name):
    login(request, User.objects.get(username=name))
    return redirect("/orders/1/")


urlpatterns.append(path("enter/<name>", enter))
"""

#: Changes an order without a word, and publishes what is older.
SILENTLY = """
import json
from channels_ws4redis.publisher import RedisPublisher
from orders.models import Order

Order.objects.filter(pk=1).update(state="sent")
RedisPublisher(facility="orders/1", broadcast=True).publish_message(json.dumps({"state": "old"}))
"""

NOTICE = """
from channels_ws4redis.publisher import RedisPublisher

RedisPublisher(facility="inbox", users=["john"]).publish_message("Thank you.")
"""


@pytest.mark.browser
def test_an_order_is_followed_for_as_long_as_its_customer_may_see_it(
    tmp_path: Path, folder: Path, base: Path, worker: Worker, redis_client: redis.Redis
) -> None:
    """Over one link: also after a loss, and with the other sockets going on when a right ends."""
    page = how_to("order-page.md")
    change = the_block(page.blocks, 'move_to("packed")')

    def run(source: str) -> None:
        assert worker.do("python", project.folder, source=source, setup="", page="test")[0] == 0

    with Project(folder, base, worker, page) as project, Chromium(tmp_path) as browser:
        for block in page.blocks[: page.blocks.index(change)]:
            if block.marker != "serves":
                project.do(block)
        serve_urls(project, ENTER)
        with browser.person() as john:
            window = john(project).open("/enter/john").wait(ORDER, "new")
            window.wait("[order, desk, inbox].map(({ state }) => state)", ["open"] * 3)
            project.do(change)
            window.wait(ORDER, "packed").wait(NOTICES, ["Order 1 is packed."])
            project.do(the_block(page.blocks, "desk.publish_message("))
            window.wait(DESK_LINE, "Mary is looking at it.")
            redis_client.flushall()
            run(SILENTLY)
            window.wait(ORDER, "sent")
            project.do(the_block(page.blocks, "refresh(facility=facility)"))
            window.wait(ORDER, "You may not see this order any more.")
            window.wait("[order, desk, inbox].map(({ state }) => state)", ["closed"] * 2 + ["open"])
            run(NOTICE)
            window.wait(NOTICES, ["Order 1 is packed.", "Thank you."])
            log = (folder / f"{SERVE.line}.log").read_text()
            assert log.count("WebSocket CONNECT") == 1
            assert window.value("problems") == []


TASKS = "[...document.querySelectorAll('#tasks li')].map((line) => line.textContent)"

#: What a page installs, and in which versions it was tried.
HTMX_4 = ("htmx.org@4", "htmx.org@4.0.1")
HTMX_2 = ("htmx.org@2 htmx-ext-ws@2", "htmx.org@2.0.11 htmx-ext-ws@2.0.4")
TURBO = ("@hotwired/turbo@8", "@hotwired/turbo@8.0.23")

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
    folder: Path,
    base: Path,
    worker: Worker,
    names: list[str],
    template: str,
    libraries: tuple[str, str],
    redis_client: redis.Redis,
) -> None:
    """A fragment that Django publishes shows, also after a restart of the server."""
    page = how_to("htmx.md")

    def add(title: str) -> None:
        source = ADD.format(title=title, template=template)
        assert worker.do("python", project.folder, source=source, setup="", page="add")[0] == 0

    with Project(folder, base, worker, page) as project, Chromium(tmp_path) as browser:
        project.follow()
        (project.folder / "mysite" / "show.py").write_text(VIEWS)
        with (project.folder / "mysite" / "settings.py").open("a") as settings:
            settings.write("ROOT_URLCONF = 'mysite.show'\n")
        wanted, tried = libraries
        fetch(project, the_block(page.blocks, f"$ npm install {wanted}\n"), wanted, tried)
        redis_client.flushall()  # of what the page has published, for another library
        project.do(SERVE)
        with browser.person() as john:
            windows = [john(project).open(f"/show/{name}") for name in names]
            add("sow")
            for window in windows:
                window.wait(TASKS, ["sow"])
            project.stop(project.port(8000))
            add("water")
            project.do(SERVE)
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


TICKETS = "[...tickets.values()].map(({ title, state }) => `${title}: ${state}`)"

#: A page for the client of the page on REST, as somebody who has an account.
DESK = """
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.shortcuts import render
from django.urls import path

from mysite.urls import urlpatterns


def desk(request, name):
    login(request, User.objects.get(username=name))
    return render(request, "tickets/desk.html")


urlpatterns.append(path("desk/<name>", desk))
"""

DESK_TEMPLATE = """
{% load static %}<!doctype html>
<meta charset="utf-8">
<title>Tickets</title>
<link rel="icon" href="data:,">
{% csrf_token %}
<script src="{% static 'js/ws4redis.js' %}"></script>
<script src="{% static 'tickets/client.js' %}"></script>
"""

STAFF = """
from django.contrib.auth.models import Group, User

Group.objects.create(name="staff").user_set.add(User.objects.get(username="mary"))
"""

CALL = """
const [method, path, body] = arguments;
const token = document.querySelector('input').value;
const headers = { 'Content-Type': 'application/json', 'X-CSRFToken': token };
return fetch(path, { method, headers, body: JSON.stringify(body) }).then(({ status }) => status);
"""


@pytest.mark.browser
def test_a_client_of_an_api_follows_it(
    tmp_path: Path, folder: Path, base: Path, worker: Worker, redis_client: redis.Redis
) -> None:
    """Owner and staff see what the API's clients do, also after a loss, and nobody else does."""
    page = how_to("rest-framework.md")
    with Project(folder, base, worker, page) as project, Chromium(tmp_path) as browser:
        project.follow()
        client = the_block(page.blocks, "WS4Redis.connect(")
        for path, text in {
            "mysite/desk.py": DESK,
            "tickets/templates/tickets/desk.html": DESK_TEMPLATE,
            "tickets/static/tickets/client.js": client.text,
        }.items():
            (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / path).write_text(text)
        with (project.folder / "mysite" / "settings.py").open("a") as settings:
            settings.write("ROOT_URLCONF = 'mysite.desk'\n")
        assert worker.do("python", project.folder, source=STAFF, setup="", page="test")[0] == 0
        project.do(SERVE)
        with browser.person() as first, browser.person() as second:
            john = first(project).open("/desk/john")
            mary = second(project).open("/desk/mary")
            for window in (john, mary):
                window.wait("socket.state", "open")
            assert john.run(CALL, "POST", "/api/tickets/", {"title": "It is dark"}) == 201
            assert mary.run(CALL, "POST", "/api/tickets/", {"title": "It is loud"}) == 201
            mary.wait(TICKETS, ["It is dark: open", "It is loud: open"])
            assert mary.run(CALL, "PATCH", "/api/tickets/1/", {"state": "done"}) == 200
            john.wait(TICKETS, ["It is dark: done"])
            redis_client.flushall()
            assert john.run(CALL, "DELETE", "/api/tickets/1/") == 204
            john.wait(TICKETS, [])
            mary.wait(TICKETS, ["It is loud: open"])
            for window in (john, mary):
                assert window.value("problems") == []


def fetch(project: Project, block: Block, wanted: str, tried: str) -> None:
    """Do a block that fetches npm packages, with the versions that the page was tried with."""
    assert wanted in block.text
    try:
        project.do(replace(block, marker="", text=block.text.replace(wanted, tried)))
    except (PageError, subprocess.TimeoutExpired) as error:
        give_up(f"'{tried}' could not be fetched: {error}")


async def test_a_user_with_few_rights_can_do_what_the_package_does(serve: Serve) -> None:
    """The rule of the page on Redis is enough, also while nothing is published."""
    page = how_to("redis.md")
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


COOKIE = """
from django.contrib.auth.models import User
from django.test import Client

client = Client()
client.force_login(User.objects.get(username="john"))
print(client.cookies.output(header="", sep=";").strip())
"""

PAY = """
from django.contrib.auth.models import User
from shop.models import Bill
from shop.tasks import tell_paid

bill = Bill.objects.create(customer=User.objects.get(username="john"))
tell_paid.delay_on_commit(bill.pk)
print(bill.pk)
"""


def test_a_task_in_a_worker_reaches_its_user(tmp_path: Path, base: Path, worker: Worker) -> None:
    """Celery's worker publishes to the sockets of another process, in the order of the task."""
    page = how_to("celery.md")

    def run(source: str) -> str:
        code, output = worker.do("python", project.folder, source=source, setup="", page="test")
        assert code == 0, output
        return output.strip()

    with Project(tmp_path, base, worker, page) as project:
        project.follow()
        project.do(SERVE)
        cookie = {"Cookie": run(COOKIE).partition(";")[0]}

        def listen(facility: str):
            url = project.url(f"/ws/{facility}?subscribe-user").replace("http", "ws")
            return connect(url, additional_headers=cookie, proxy=None)

        with listen("reports") as socket:
            ready = json.dumps({"ready": True})
            while socket.recv(PATIENCE) != ready:  # of the page's own report
                pass
            project.do(the_block(page.blocks, "make_report.delay("))
            progress = [json.dumps({"done": done, "of": 3}) for done in (1, 2, 3)]
            assert [socket.recv(PATIENCE) for _ in range(4)] == [*progress, ready]
        with listen("bills") as socket:
            paid = json.dumps({"bill": int(run(PAY))})
            while socket.recv(PATIENCE) != paid:  # after what the page has told
                pass
