"""The demo and the browser client in a real browser, against a real server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from channels_ws4redis.publisher import RedisPublisher
from chat import figures
from tests.browser import PATIENCE, Cable, Chromium, Page, fetch_from_npm, fetch_jquery, wait_until
from tests.servers import ROOT, AsgiServer

pytestmark = pytest.mark.browser

Visit = Callable[..., Page]

#: The demo as people run it, with the views of the tests' site beside it.
DEMO = {
    "application": "testproject.asgi:application",
    "settings": {
        "DEBUG": True,  # serves the static files
        "WS4REDIS_HEARTBEAT": "--heartbeat--",
        "WS4REDIS_HISTORY": 120,
        "WS4REDIS_REPLAY": "all",
        "WS4REDIS_ALLOWED_CHANNELS": "chat.permissions.allowed_channels",
        "WS4REDIS_CLOSE_WINDOW": 0,
    },
}

#: Keys as WebDriver names them.
TAB, ENTER, SPACE, SHIFT = "\ue004", "\ue007", " ", "\ue008"

OPEN = "document.getElementById('link').dataset.state === 'open'"
TEXTS = "[...document.querySelectorAll('#log .text')].map(({ textContent }) => textContent)"
NOTES = "[...document.querySelectorAll('#log .note')].map(({ textContent }) => textContent)"
RECOVERED = (
    "[...document.querySelectorAll('#log .recovered .text')].map(({ textContent }) => textContent)"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests, in which each person has cookies of their own."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def visit(chromium: Chromium, demo: AsgiServer) -> Iterator[Visit]:
    """Give a new person a page, on the demo unless another site is given."""
    with contextlib.ExitStack() as people:

        def arrive(site=demo) -> Page:
            return people.enter_context(chromium.person())(site)

        yield arrive
        complaints = chromium.complaints()
    assert complaints == []


@pytest.fixture(scope="module")
def demo(redis_url: str, database: Path) -> Iterator[AsgiServer]:
    """The demo on a server that lives through all tests."""
    environment = {"REDIS_URL": redis_url, "WS4REDIS_TEST_DATABASE": str(database)}
    with AsgiServer(**DEMO, **environment) as server:
        yield server


@pytest.fixture(autouse=True)
def demo_settings(settings, empty_redis) -> None:
    """Let this process, which is one more publisher, keep as much as the demo does."""
    settings.WS4REDIS_HISTORY = 120


def publish(facility: str, *messages: str, **audience) -> None:
    """Publish, in a process that is none of the servers'."""
    publisher = RedisPublisher(facility=facility, **audience)
    for message in messages:
        publisher.publish_message(message)


_said = [datetime.now(UTC)]


def say(*texts: str, sender: str = "script", to: str = "everyone", **audience) -> None:
    """Publish messages of the demo's chat, which orders them by the millisecond."""
    for text in texts:
        _said[0] = max(datetime.now(UTC), _said[0] + timedelta(milliseconds=1))
        at = _said[0].isoformat()
        message = f'{{"from": "{sender}", "to": "{to}", "text": "{text}", "at": "{at}"}}'
        publish("chat", message, **audience)


def send(page: Page, text: str, to: str = "broadcast") -> None:
    """Send a message by the form of the chat."""
    page.run(
        "const select = document.getElementById('recipient');"
        "select.value = arguments[0];"
        "document.getElementById('text').value = arguments[1];"
        "document.querySelector('#composer button').click();",
        *(to, text),
    )


def listen(page: Page, **query: str) -> Page:
    """Open the page that notes what its socket gets."""
    return page.open(f"/test/page/listen?{urlencode(query)}").wait("socket.state", "open")


def test_two_users_chat(visit):
    """John and mary, in two browser contexts, write to everyone, to each other, to their group."""
    john, mary, guest = visit(), visit(), visit()
    for page, name in ((john, "john"), (mary, "mary")):
        page.login(name).open("/chat/").wait(OPEN)
    listen(guest, facility="chat", flags="subscribe-broadcast,subscribe-user,subscribe-group")
    send(john, "Hello <b>everyone</b> ☃")
    mary.wait(TEXTS, ["Hello <b>everyone</b> ☃"])
    send(mary, "Hello john", to="user:john")
    john.wait(TEXTS, ["Hello <b>everyone</b> ☃", "Hello john"])
    send(john, "To all of us", to="group:chatters")
    expected = ["Hello <b>everyone</b> ☃", "Hello john", "To all of us"]
    for page in (john, mary):
        page.wait(TEXTS, expected)
    heads = (
        "[...document.querySelectorAll('#log .message')].map((item) =>"
        " [...item.querySelectorAll('.sender, .badge')].map(({ textContent }) => textContent))"
    )
    assert john.value(heads) == [["You"], ["mary", "only you"], ["You", "chatters"]]
    assert mary.value(heads) == [["john"], ["You", "to john"], ["john", "chatters"]]
    # Who has not logged in has heard the first of the three alone.
    say("the last", broadcast=True)
    guest.wait("messages.at(-1)[1].includes('the last')")
    assert [label for label, _ in guest.value("messages")] == ["broadcast", "broadcast"]


def test_reload_shows_what_is_persisted(visit):
    """After a reload, and in a tab opened later, the page shows the same messages again."""
    page = visit().login("john").open("/chat/").wait(OPEN)
    send(page, "first")
    send(page, "second", to="user:mary")
    page.wait(TEXTS, ["first", "second"])
    say("third", groups=["chatters"])
    page.wait(TEXTS, ["first", "second", "third"])
    page.reload().wait(TEXTS, ["first", "second", "third"])
    assert page.value(RECOVERED) == []
    later = visit().login("mary").open("/chat/")
    later.wait(TEXTS, ["first", "second", "third"])


def test_login_and_logout_change_what_arrives(visit):
    """A socket hears what the person of its cookies may hear, from when it comes back."""
    page = visit()
    flags = "subscribe-broadcast,subscribe-user,subscribe-group,subscribe-session"

    def publish_to_all(text: str) -> None:
        publish("page", text, users=["john"])
        publish("page", text, groups=["chatters"])
        publish("page", text, broadcast=True)

    listen(page, flags=flags)
    publish_to_all("as a guest")
    page.wait("messages", [["broadcast", "as a guest"]])

    page.post("/test/login", username="john", password="secret")
    page.run("socket.reconnect()")
    page.wait("socket.state", "open")
    # What was stored for john before comes as to a page that is opened now.
    before = [["user", "as a guest"], ["group:chatters", "as a guest"]]
    page.wait("messages.length", 3)
    assert sorted(page.value("messages.splice(0)")[1:]) == sorted(before)
    publish_to_all("as john")
    page.wait(
        "messages", [["user", "as john"], ["group:chatters", "as john"], ["broadcast", "as john"]]
    )

    page.post("/test/logout")
    page.run("messages.splice(0); socket.reconnect()")
    page.wait("socket.state", "open")
    publish_to_all("as a guest again")
    page.wait("messages", [["broadcast", "as a guest again"]])
    assert page.value("events.filter(([type]) => type === 'lost')") == []


def test_login_and_logout_by_the_demo(visit):
    """The demo's own forms log in, with a mistake on the way, and out again."""
    page = visit().open("/")
    page.press("john", TAB, "wrong", ENTER)
    page.wait("document.querySelector('[role=alert]')?.textContent.includes('do not match')")
    page.run("document.getElementById('id_password').focus()")
    page.press("secret", ENTER)
    page.wait("location.pathname", "/chat/").wait(OPEN)
    page.run("document.querySelector('form.account button').click()")
    page.wait("location.pathname", "/").wait("document.activeElement.id", "id_username")


def test_guest_looks_around(visit):
    """Who does not log in reads what is said to everyone, and cannot publish, whatever is tried."""
    john, guest = visit().login("john").open("/chat/").wait(OPEN), visit().open("/")
    guest.run("document.querySelector('.welcome a').click()")
    guest.wait("location.pathname", "/chat/").wait(OPEN)
    assert guest.value("document.querySelector('form')") is None
    guest.run("WS4Redis.sockets.chat.sendJSON({ from: 'john', text: 'not me' })")
    send(john, "for mary alone", to="user:mary")
    send(john, "for the group alone", to="group:chatters")
    send(john, "for everyone")
    guest.wait(TEXTS, ["for everyone"])
    # Each page has an order of its own, but what the guest has sent was sent before.
    john.wait(f"{TEXTS}.toSorted()", ["for everyone", "for mary alone", "for the group alone"])
    status = guest.driver.execute_async_script(
        "const done = arguments[0];"
        "fetch('/send/', { method: 'POST' }).then(({ status }) => done(status), String);"
    )
    assert status == 403


def test_hint_when_there_are_no_numbers(visit):
    """The dashboard tells where its numbers come from only while none come."""
    page = visit().open("/dashboard/").wait(OPEN)
    hidden = "document.getElementById('no-numbers').hidden"
    assert page.value(hidden)
    page.wait(hidden, False)
    publish("dashboard", '{"visitors": 40}', broadcast=True)
    page.wait(hidden)


def test_pages_show_their_code(visit):
    """Beside each live page are lines of the very files that make it work."""
    page = visit().login("john")
    for path in ("/chat/", "/dashboard/", "/legacy/", "/legacy/user/", "/legacy/group/"):
        shown = page.open(path).value(
            "[...document.querySelectorAll('.source')].map((figure) =>"
            " [figure.querySelector('figcaption'), figure.querySelector('code')]"
            ".map(({ textContent }) => textContent))"
        )
        assert len(shown) >= 2
        for name, code in shown:
            lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
            block = [line.strip() for line in code.splitlines()]
            first = lines.index(block[0])
            assert lines[first : first + len(block)] == block


@pytest.mark.parametrize(
    ("kind", "how"),
    [("daphne", signal.SIGKILL), ("daphne", signal.SIGTERM), ("uvicorn", signal.SIGTERM)],
)
def test_server_restarts(visit, serve, kind, how):
    """The server ends under an open page; whatever is published meanwhile arrives, and once."""
    site = serve(kind, **DEMO)
    page = visit(site).login("john").open("/chat/").wait(OPEN)
    say("before", broadcast=True)
    page.wait(TEXTS, ["before"])
    site.stop(how)
    page.wait(OPEN, False)
    missed = [f"missed {number}" for number in range(30)]
    for number, text in enumerate(missed):
        audience = [{"broadcast": True}, {"users": ["john"]}, {"groups": ["chatters"]}][number % 3]
        say(text, **audience)
    site.start()
    page.wait(TEXTS, ["before", *missed])
    assert page.value(RECOVERED) == missed
    page.wait(NOTES, ["Connected again; 30 missed messages recovered."])
    send(page, "after")
    page.wait(f"{TEXTS}.at(-1)", "after")
    assert len(page.value(TEXTS)) == 32


def console_of(page: Page) -> list[str]:
    """Return what the client has written to the console since the last time."""
    entries = page.driver.get_log("browser")
    start = f'"WS4Redis:" "ws://127.0.0.1:{page.site.port}/'
    return [entry["message"] for entry in entries if start in entry["message"]]


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_one_socket_too_many(visit, serve, kind):
    """A browser gets the close code and the hint, although the server has never let it in."""
    settings = DEMO["settings"] | {"WS4REDIS_MAX_SOCKETS": 1}
    site = serve(kind, **DEMO | {"settings": settings})
    listen(visit(site))
    page = visit(site).open("/test/page/listen").wait("socket.state", "waiting")
    [[_, told]] = page.value("events.filter(([type]) => type === 'close')")
    assert (told["code"], told["reason"]) == (1013, "retry-after=10")
    assert told["delay"] >= 10_000
    [line] = console_of(page)
    assert '1013 "retry-after=10"' in line


def test_a_refusal_is_told_in_the_console(visit, serve):
    """Once, however often the browser says that it has got a 403."""
    settings = DEMO["settings"] | {"WS4REDIS_FACILITIES": "strict"}
    site = serve("daphne", **DEMO | {"settings": settings})
    page = visit(site).open("/test/page/listen")
    page.wait("events.filter(([type]) => type === 'close').length > 1", True)
    assert page.value("events.find(([type]) => type === 'close')[1].code") == 1006
    [line] = console_of(page)
    assert " 1006 " in line


def test_link_cut_for_ten_seconds(visit):
    """The demo's button cuts the link, by keyboard; what comes meanwhile is shown as recovered."""
    chat = visit().login("john").open("/chat/").wait(OPEN)
    dashboard = visit().open("/dashboard/").wait(OPEN)
    publish("dashboard", '{"visitors": 40}', broadcast=True)
    for page in (chat, dashboard):
        page.run("document.getElementById('link-cut').focus()")
        page.press(ENTER)
        page.wait("document.getElementById('link-state').textContent", "The link is cut")
        page.wait("/^Back in \\d+ s$/.test(document.getElementById('link-cut').textContent)")
        # Who has pressed it keeps the focus.
        assert page.value("document.activeElement.id") == "link-cut"
    say("missed 1", "missed 2", broadcast=True)
    say("missed 3", users=["john"])
    for value in (50, 60, 70):
        publish("dashboard", f'{{"visitors": {value}}}', broadcast=True)
    send(chat, "not sent")
    chat.wait("document.getElementById('problem').hidden", False)
    assert "not sent" in chat.value("document.getElementById('problem').textContent")
    assert chat.value("document.getElementById('text').value") == "not sent"
    assert chat.value(TEXTS) == []

    chat.wait(TEXTS, ["missed 1", "missed 2", "missed 3"])
    assert chat.value(RECOVERED) == ["missed 1", "missed 2", "missed 3"]
    chat.wait(f"{NOTES}.at(-1)", "Connected again; 3 missed messages recovered.")
    assert chat.value("document.getElementById('problem').hidden")
    dashboard.wait("document.querySelectorAll('#chart circle.recovered').length", 3)
    dashboard.wait(f"{NOTES}.at(-1)", "Connected again; 3 missed messages recovered.")
    dashboard.wait("document.getElementById('highest').textContent", "70")


def test_frozen_link(visit, demo, serve):
    """Nothing goes through and nothing is closed: the page notices, and misses nothing."""
    hasty = serve(**DEMO | {"application": "tests.site.hasty:application"})
    with Cable(hasty.port) as silent, Cable(demo.port) as woken:
        pages = [listen(visit(silent)), listen(visit(woken))]
        publish("page", "before", broadcast=True)
        for page in pages:
            page.wait("messages.length", 1)
        for cable in (silent, woken):
            cable.freeze()
        # One page misses the server's pings; the other's device wakes up, which makes it ask. Both
        # then get no answer to a ping of their own for 5 s.
        pages[1].run("dispatchEvent(new Event('online'))")
        missed = [f"missed {number}" for number in range(10)]
        publish("page", *missed, broadcast=True)
        for page in pages:
            page.wait("socket.state !== 'open'")
            assert page.value("messages.length") == 1
        for cable in (silent, woken):
            cable.thaw()
        for page in pages:
            page.wait("messages.slice(1).map(([, text]) => text)", missed)
            page.wait("events.at(-1)", ["recovered", {"channel": "broadcast", "messages": 10}])


def test_offline(visit, demo):
    """A page whose device has been offline does not wait for its next attempt to come back."""
    with Cable(demo.port) as cable:
        page = visit(cable)
        # As if the server had been away for long: the next attempt is far off.
        listen(page).run("socket.reconnect(600000)")
        page.wait("socket.state", "waiting")
        publish("page", "missed", broadcast=True)
        for offline in (True, False):
            page.command(
                "Network.emulateNetworkConditions",
                offline=offline,
                latency=0,
                downloadThroughput=-1,
                uploadThroughput=-1,
            )
        page.wait("messages", [["broadcast", "missed"]])


def test_background_tab(visit):
    """A tab behind another one gets its messages, and answers the server's pings."""
    page = listen(visit())
    page.cover()
    wait_until(lambda: page.glimpse("document.hidden"), True)
    texts = [f"unseen {number}" for number in range(5)]
    publish("page", *texts, broadcast=True)
    wait_until(lambda: page.glimpse("messages.map(([, text]) => text)"), texts)
    assert page.glimpse("seenHidden") == texts
    assert page.value("socket.state") == "open"
    assert page.value("document.hidden") is False


def test_frozen_tab(visit):
    """A tab that the browser has frozen catches up when it is thawed."""
    page = listen(visit())
    page.cover()
    page.browser.switch(page.browser.home)
    page.glimpse("0")
    session = page._session
    page.browser.call("Page.setWebLifecycleState", session, state="frozen")
    texts = [f"unseen {number}" for number in range(20)]
    publish("page", *texts, broadcast=True)
    time.sleep(0.5)  # nothing tells that nothing happens
    assert page.glimpse("messages.length") == 0
    page.browser.call("Page.setWebLifecycleState", session, state="active")
    page.wait("messages.map(([, text]) => text)", texts)


def test_busy_page(visit):
    """A page whose scripts keep it busy gets everything afterwards, in order."""
    page = listen(visit())
    texts = [str(number) for number in range(1000)]
    publish("page", texts[0], broadcast=True)
    page.wait("messages.length", 1)
    page.run("const end = Date.now() + 1000; setTimeout(() => { while (Date.now() < end) {} })")
    publish("page", *texts[1:], broadcast=True)
    page.wait("messages.map(([, text]) => text)", texts)


@pytest.mark.parametrize("policy", ["strict", "nonce"])
def test_content_security_policy(visit, policy):
    """The template tag works on a page whose policy allows no inline code."""
    page = visit()
    listen(page, policy=policy)
    publish("page", "Hello", broadcast=True)
    page.wait("messages", [["broadcast", "Hello"]])
    assert page.value("problems") == []
    assert page.browser.complaints() == []


def test_content_security_policy_is_enforced(visit):
    """The test above would see a violation: the browser tells of one in both places."""
    page = visit()
    listen(page, inline="1")
    assert page.value("window.inline") is None
    assert page.value("problems") == ["script-src-elem refused inline"]
    [complaint] = page.browser.complaints()
    assert "Content Security Policy" in complaint


def test_published_between_rendering_and_connecting(visit):
    """The page is stamped with positions: what is newer arrives, what it shows already does not."""
    publish("page", "shown by the page", broadcast=True)
    page = listen(visit(), late="published while the page was loading")
    page.wait("messages", [["broadcast", "published while the page was loading"]])
    page.wait("events.at(-1)", ["recovered", {"channel": "broadcast", "messages": 1}])
    # Without a stamp the page gets all that is stored.
    page = listen(visit(), late="later", replay="1")
    page.wait(
        "messages.map(([, text]) => text)",
        ["shown by the page", "published while the page was loading", "later"],
    )


@pytest.fixture(scope="module")
def jquery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jQuery in it."""
    folder = tmp_path_factory.mktemp("jquery")
    fetch_jquery(folder)
    return folder


@pytest.mark.parametrize("library", ["jquery", "none"])
def test_legacy_call(visit, serve, request, library):
    """The legacy call works with jQuery and without, with `new` and without, twice on a page."""
    fetched = {}
    if library == "jquery":
        fetched["WS4REDIS_TEST_STATIC"] = str(request.getfixturevalue("jquery"))
    site = serve(**DEMO, **fetched)
    publish("foobar", "stored", broadcast=True)
    page = visit(site).login("john").open(f"/test/page/legacy?{library}")
    assert page.value("typeof jQuery") == ("function" if library == "jquery" else "undefined")
    got = "calls.filter((call) => call.startsWith(arguments[0]))"
    page.wait("calls.slice(0, 2)", ["connecting", "connected"])

    def received(name: str) -> list[str]:
        return page.run(f"return {got}", name)

    wait_until(lambda: received("first"), ["first: stored"])
    wait_until(lambda: received("second")[-1:], ["second: stored"])
    page.run("document.getElementById('text_message').value = 'Grüße <b>☃</b>'")
    page.run("document.getElementById('send_message').click()")
    wait_until(lambda: received("first"), ["first: stored", "first: Grüße <b>☃</b>"])
    wait_until(lambda: received("second")[-1:], ["second: Grüße <b>☃</b>"])
    assert page.value("sockets.map((one) => [one.get_state(), one.is_connected()])") == [
        [1, True], [1, True],
    ]  # fmt: skip

    site.stop(signal.SIGKILL)
    page.wait("calls.at(-1) !== undefined && calls.includes('disconnected: 1006')")
    site.start()
    page.wait("sockets.every((one) => one.is_connected())")
    publish("foobar", "after the restart", broadcast=True)
    wait_until(lambda: received("first")[-1:], ["first: after the restart"])
    page.run("calls.splice(0); sockets.forEach((one) => one.close())")
    page.wait("sockets.every((one) => one.is_closed())")
    publish("foobar", "after the end", broadcast=True)
    page.wait("calls", ["disconnected: 1000"])
    assert page.value("problems") == []


def test_demo_in_legacy_style(visit):
    """The demo's pages in the style of legacy show what is persisted and what is sent."""
    page, other = visit().login("john"), visit().login("mary")
    log = "document.getElementById('billboard').textContent.trim().split('\\n')"
    for one in (page, other):
        one.open("/legacy/").wait("document.getElementById('state').textContent", "Connected")
    page.run("document.getElementById('text_message').focus()")
    page.press("Hello legacy", ENTER)
    for one in (page, other):
        one.wait(f"{log}.at(-1)", "Hello legacy")
    for path, name in (("user", "mary"), ("group", "chatters")):
        for one in (page, other):
            one.open(f"/legacy/{path}/")
            one.wait("document.getElementById('state').textContent", "Connected")
        page.run("document.querySelector('select').value = arguments[0]", name)
        page.run("document.getElementById('message').focus()")
        page.press(f"to {name}", ENTER)
        other.wait(f"{log}.at(-1)", f"to {name}")


def test_module(visit):
    """The client as an ES module: the same code under the same names."""
    page = visit().login("john").open("/test/page/module").wait("window.page !== undefined")
    page.wait("page.texts", [{"from": "a module"}])
    assert page.value("page.same") is True
    assert page.value("problems") == []


def test_dashboard_moves(visit, redis_url):
    """The chart gets a new point for each number of `manage.py feed`, in another process."""
    page = visit().open("/dashboard/").wait(OPEN)
    assert page.value("document.getElementById('chart').getAttribute('aria-label')") == (
        "No numbers yet"
    )
    points = "(document.querySelector('#chart .curve')?.points.length || 0)"
    command = [sys.executable, str(ROOT / "testproject" / "manage.py"), "feed"]
    with subprocess.Popen(
        [*command, "--interval", "0.1", "--count", "20"],
        env=os.environ | {"REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)},
    ) as feed:
        page.wait(f"{points} > 3")
        before = page.value("document.querySelector('#chart .curve').getAttribute('points')")
        page.wait(f"{points} >= 12")
        assert feed.wait(PATIENCE) == 0
    page.wait(points, 20)
    assert page.value("document.querySelector('#chart .curve').getAttribute('points')") != before
    label = page.value("document.getElementById('chart').getAttribute('aria-label')")
    assert re.fullmatch(r"Visitors in the last minute: between \d+ and \d+, now \d+", label)
    # It slides on without any number.
    page.run("window.before = document.querySelector('#chart .curve').getAttribute('points')")
    page.wait("document.querySelector('#chart .curve').getAttribute('points') !== window.before")
    # Another visitor sees the same minute.
    visit().open("/dashboard/").wait(points, 20)


def test_keyboard(visit):
    """Everything on the chat page can be done by keyboard alone."""
    john, mary = visit().open("/"), visit().login("mary").open("/chat/").wait(OPEN)
    john.press("john", TAB, "secret", ENTER).wait("location.pathname", "/chat/").wait(OPEN)
    focus = "document.activeElement.id"
    john.wait(focus, "text").press("typed", ENTER)
    mary.wait(TEXTS, ["typed"])
    john.wait("document.getElementById('text').value", "")
    assert john.value(focus) == "text"

    john.chord(SHIFT, TAB).wait(focus, "recipient").press("m")
    john.wait("document.getElementById('recipient').value", "user:mary")
    john.press(TAB).wait(focus, "text").press("typed too", TAB, SPACE)
    mary.wait(TEXTS, ["typed", "typed too"])

    # From the field, which has the focus again, up to the first stop.
    stops = []
    while "Skip to the content" not in stops:
        stop = john.value("document.activeElement.id || document.activeElement.textContent.trim()")
        stops.append(stop)
        visible = john.run(
            "const { top, left, bottom, right } = document.activeElement.getBoundingClientRect();"
            "const { outlineStyle } = getComputedStyle(document.activeElement);"
            "return top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth"
            " && outlineStyle !== 'none';"
        )
        assert visible, f"{stop} has the focus out of sight"
        john.chord(SHIFT, TAB)
    assert stops[::-1] == [
        *("Skip to the content", "ws4redis", "Chat", "Dashboard", "Log out"),
        *("link-cut", "log", "recipient", "text"),
    ]


@pytest.mark.parametrize("path", ["/", "/chat/", "/dashboard/", "/legacy/user/"])
def test_screen_reader(visit, path):
    """Each control has a name, messages are read out politely, and headings come in order."""
    page = visit()
    if path != "/":
        page.login("john")
    page.open(path)
    page.command("Accessibility.enable")
    nodes = [
        node
        for node in page.command("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"] and "role" in node
    ]
    roles = {node["role"]["value"] for node in nodes}
    controls = roles & {"textbox", "combobox", "button", "link", "log"}
    assert controls >= {"textbox", "button"} or path == "/dashboard/"
    nameless = [
        node
        for node in nodes
        if node["role"]["value"] in {*controls, "image", "navigation", "RootWebArea"}
        and not node["name"]["value"].strip()
    ]
    assert nameless == []
    if path != "/":
        [log] = [node for node in nodes if node["role"]["value"] == "log"]
        properties = {entry["name"]: entry["value"]["value"] for entry in log["properties"]}
        assert properties["live"] == "polite"
        assert "status" in roles
    assert "main" in roles
    assert page.value("document.documentElement.lang") == "en"
    levels = page.value(
        "[...document.querySelectorAll('h1, h2, h3')].map(({ localName }) => localName)"
    )
    assert levels[0] == "h1"
    assert levels.count("h1") == 1


@pytest.mark.parametrize("path", ["/", "/chat/", "/dashboard/", "/legacy/"])
def test_phone(visit, path):
    """On the smallest phones nothing has to be scrolled sideways, and fingers hit the controls."""
    page = visit().size(320, 568, mobile=True)
    if path != "/":
        page.login("john")
    say("w" * 300, "short", broadcast=True)
    say("x" * 300, sender="mary" * 20, to="john", users=["john"])
    page.open(path)
    if path == "/chat/":
        page.wait(f"{TEXTS}.length", 3)
    assert page.value("innerWidth") == 320
    assert page.value("document.scrollingElement.scrollWidth") == 320
    outside = page.value(
        "[...document.querySelectorAll('body *')].filter((element) => {"
        "  const { left, right, width } = element.getBoundingClientRect();"
        "  return width > 1 && (left < 0 || right > innerWidth) && !element.closest('svg');"
        "}).map(({ outerHTML }) => outerHTML.slice(0, 200))"
    )
    assert outside == []
    small = page.value(
        "[...document.querySelectorAll('button, input:not([type=hidden]), select, nav a')]"
        ".filter((element) => element.getBoundingClientRect().height < 24)"
        ".map(({ outerHTML }) => outerHTML.slice(0, 200))"
    )
    assert small == []
    if path == "/chat/":
        # The form stays in sight, however much has been said.
        say(*(f"message {number}" for number in range(30)), broadcast=True)
        page.wait(f"{TEXTS}.length", 33)
        box = page.value("document.querySelector('#composer').getBoundingClientRect().toJSON()")
        assert box["top"] >= 0
        assert box["bottom"] <= page.value("innerHeight")
        page.wait("log.scrollHeight - log.scrollTop - log.clientHeight < 2")


CONTRASTS = """
function luminance(colour) {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(element) {
  for (let at = element; at; at = at.parentElement) {
    const { backgroundColor } = getComputedStyle(at);
    if (!/, 0\\)$|\\/ 0\\)$/.test(backgroundColor)) {
      return backgroundColor;
    }
  }
  return 'rgb(255, 255, 255)';
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const poor = [];
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || !element.checkVisibility() || element.closest('[aria-disabled=true]')) {
    continue;
  }
  const { color, fill } = getComputedStyle(element);
  const ink = element.closest('svg') ? fill : color;
  const [light, dark] = [luminance(ink), luminance(background(element))].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  if (ratio < 4.5) {
    poor.push([text, ratio]);
  }
}
return poor;
"""


@pytest.mark.parametrize("path", ["/", "/chat/", "/dashboard/"])
def test_light_and_dark(visit, path):
    """Both schemes are there, and all text stands out from its background."""
    page = visit()
    if path != "/":
        page.login("john")
    say("to all", sender="mary", broadcast=True)
    say("own", sender="john", to="mary", users=["john"])
    publish("dashboard", '{"visitors": 40}', broadcast=True)
    colours = []
    for scheme in ("light", "dark"):
        page.scheme(scheme).open(path)
        if path == "/chat/":
            page.wait(OPEN).wait(f"{TEXTS}.length", 2)
        if path == "/dashboard/":
            page.wait("document.getElementById('value').textContent", "40")
        colours.append(page.value("getComputedStyle(document.body).backgroundColor"))
        assert page.run(CONTRASTS) == []
    assert len(set(colours)) == 2


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe, which knows most of what can be wrong with a page for somebody."""
    folder = tmp_path_factory.mktemp("axe")
    fetch_from_npm("axe-core@4.14.1", "axe.min.js", folder / "axe.min.js")
    return (folder / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height", "mobile"), [(390, 844, True), (1440, 900, False)])
def test_axe_finds_nothing(visit, axe, width, height, mobile, scheme):
    """No page of the demo breaks a rule of accessibility, on a phone or a desk, to anybody."""
    say("to all", sender="mary", broadcast=True)
    publish("dashboard", '{"visitors": 40}', broadcast=True)
    guest = visit().size(width, height, mobile).scheme(scheme)
    john = visit().size(width, height, mobile).scheme(scheme).login("john")
    live = ["/chat/", "/dashboard/"]
    for page, paths in (
        (guest, ["/", *live]),
        (john, [*live, "/legacy/", "/legacy/user/", "/legacy/group/"]),
    ):
        for path in paths:
            page.open(path).run(axe)
            found = page.driver.execute_async_script(
                "const done = arguments[0];"
                "axe.run().then(({ violations }) => done(violations), String);"
            )
            assert found == [], path


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures go: the README's folder if WS4REDIS_SCREENSHOTS is set."""
    if not os.environ.get("WS4REDIS_SCREENSHOTS"):
        return tmp_path
    folder = ROOT / "testproject" / "screenshots"
    folder.mkdir(exist_ok=True)
    return folder


def drop(page: Page, while_away: Callable[[], None]) -> None:
    """Cut the link by the demo's button, do something, and let the page come back at once."""
    page.run("document.getElementById('link-cut').click()")
    page.wait("document.getElementById('link').dataset.state", "waiting")
    while_away()
    page.run("Object.values(WS4Redis.sockets)[0].reconnect()")
    page.wait(OPEN).wait(f"{NOTES}.at(-1)?.startsWith('Connected again')")


def test_screenshots_of_the_chat(visit, screenshots):
    """John on a desk and mary, who prefers the dark, on a phone: the pictures of the README."""
    john = visit().size(1280, 800).scheme("light").login("john").open("/chat/").wait(OPEN)
    mary = (
        visit().size(390, 780, mobile=True).scheme("dark").login("mary").open("/chat/").wait(OPEN)
    )
    send(mary, "Good morning, everyone!")
    john.wait(f"{TEXTS}.length", 1)
    send(john, "Morning! Version 1.0 is out.")
    send(mary, "Shall we tell the others at ten?", to="user:john")
    john.wait(f"{TEXTS}.length", 3)
    send(john, "Cake in the kitchen at ten ☕", to="group:chatters")
    mary.wait(f"{TEXTS}.length", 4)

    def meanwhile() -> None:
        send(mary, "Are you still there?", to="user:john")
        mary.wait(f"{TEXTS}.length", 5)
        send(mary, "John has dropped off. He will get this all the same.")
        mary.wait(f"{TEXTS}.length", 6)

    drop(john, meanwhile)
    send(john, "And here it is.")
    for page, name in ((john, "john"), (mary, "mary")):
        page.wait(f"{TEXTS}.length", 7)
        page.screenshot(screenshots / f"chat-{name}.png")
    assert john.value(f"{RECOVERED}.length") == 2


def test_screenshots_of_the_dashboard(visit, screenshots):
    """A minute of the dashboard, ten seconds of which were missed and recovered."""
    now = time.time()
    for half_seconds in range(120, 40, -1):
        figures.publish(now - half_seconds / 2)
    page = visit().size(1280, 800).scheme("dark").open("/dashboard/").wait(OPEN)
    page.wait("document.querySelector('#chart .curve')?.points.length > 70")

    def meanwhile() -> None:
        for half_seconds in range(40, 20, -1):
            figures.publish(now - half_seconds / 2)

    drop(page, meanwhile)
    for half_seconds in range(20, -1, -1):
        figures.publish(now - half_seconds / 2)
    page.wait("document.querySelectorAll('#chart circle.recovered').length", 20)
    page.wait("document.querySelector('#chart .curve').points.length > 110")
    page.screenshot(screenshots / "dashboard.png")
