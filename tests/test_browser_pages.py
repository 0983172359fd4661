"""Several sockets on one page, and pages that a script puts in the place of each other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.browser import Chromium, Page, fetch_from_npm
from tests.servers import AsgiServer
from tests.test_browser import DEMO, Visit, publish

pytestmark = pytest.mark.browser

#: What replaces a page's body, by the name of the file: its package, and the file there.
LIBRARIES = {
    "turbo.js": ("@hotwired/turbo@8.0.23", "dist/turbo.es2017-umd.js"),
    "htmx2.js": ("htmx.org@2.0.11", "dist/htmx.min.js"),
    "htmx4.js": ("htmx.org@4.0.1", "dist/htmx.min.js"),
}


@pytest.fixture(scope="module")
def site(
    redis_url: str, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AsgiServer]:
    """The tests' site with what was fetched from npm, on a server that lives through all tests."""
    folder = tmp_path_factory.mktemp("npm")
    for name, (package, member) in LIBRARIES.items():
        fetch_from_npm(package, member, folder / name)
    environment = {
        "REDIS_URL": redis_url,
        "WS4REDIS_TEST_DATABASE": str(database),
        "WS4REDIS_TEST_STATIC": str(folder),
    }
    with AsgiServer(**DEMO, **environment) as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests, in which each person has cookies of their own."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def visit(chromium: Chromium, site: AsgiServer) -> Iterator[Visit]:
    """Give a new person a page."""
    with contextlib.ExitStack() as people:
        yield lambda: people.enter_context(chromium.person())(site)
        complaints = chromium.complaints()
    assert complaints == []


@pytest.fixture(autouse=True)
def long_history(settings, empty_redis) -> None:
    """Let this process, which is one more publisher, keep as much as the site does."""
    settings.WS4REDIS_HISTORY = 120


#: What the page that is shown has heard.
LIST = "document.getElementById('list')?.textContent"


def state_of(name: str) -> str:
    """Return the expression for the state of a socket, which may not be there."""
    return f"WS4Redis.sockets.{name}?.state"


def open_first(page: Page, **query: str) -> Page:
    """Open the page that names a and b."""
    page.open(f"/test/page/turned?{urlencode({'facilities': 'a,b', **query})}")
    page.wait(state_of("a"), "open").wait(state_of("b"), "open")
    page.run("window.first = loaded")
    return page


def turn(page: Page, link: str, shown: str) -> None:
    """Follow a link, and wait for the page behind it."""
    page.run("document.getElementById(arguments[0]).click()", link)
    page.wait("document.getElementById('shown')?.textContent", shown)


@contextlib.contextmanager
def numbers(facility: str) -> Iterator[list[str]]:
    """Publish numbers as long as this lasts, and give those that have been published."""
    published: list[str] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            publish(facility, str(len(published)), broadcast=True)
            published.append(str(len(published)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield published
    finally:
        over.set()
        thread.join()


def test_two_tags_share_a_link(visit):
    """Each of them hears its own facility, over one WebSocket, also after that has ended."""
    page = open_first(visit())
    assert page.value("links.length") == 1
    publish("a", "to a", broadcast=True)
    publish("b", "to b", broadcast=True)
    page.wait("heard", {"a": ["to a"], "b": ["to b"]})
    page.run("links[0].close()")
    page.wait("states.b.slice(-3)", ["waiting", "connecting", "open"])
    publish("b", "again", broadcast=True)
    page.wait("heard.b", ["to b", "again"])
    assert page.value("links.length") == 2
    assert page.value("problems") == []


@pytest.mark.parametrize(
    ("library", "where"), [*((name, "body") for name in LIBRARIES), ("turbo.js", "head")]
)
def test_what_the_next_page_names_goes_on(visit, library, where):
    """It misses nothing and gets nothing twice; what is not named is left, and found again."""
    page = open_first(visit(), library=library, **{where: ""})
    with numbers("b") as published:
        turn(page, "bc", "b,c")
        page.wait(state_of("c"), "open").wait(state_of("a"), "closed")
        publish("a", "missed", broadcast=True)
        turn(page, "ab", "a,b")
        page.wait(state_of("a"), "open").wait(state_of("c"), "closed")
        page.wait("heard.a", ["missed"])
        turn(page, "d", "d")
        page.wait(state_of("d"), "open").wait(state_of("b"), "closed")
        turn(page, "bc", "b,c")
        page.wait(state_of("b"), "open")
    page.wait("heard.b.length", len(published))
    assert page.value("heard.b") == published
    assert page.value("states.b") == ["connecting", "open", "closed", "connecting", "open"]
    assert page.value("first === loaded && links.length") == 1
    assert page.value("problems") == []


def test_a_page_from_the_cache(visit):
    """On the way back, and while a preview stands for the page, what goes on is not touched."""
    page = open_first(visit(), library="turbo.js")
    with numbers("b") as published:
        turn(page, "bc", "b,c")
        page.wait(state_of("a"), "closed")
        page.run("history.back()")
        page.wait("document.getElementById('shown')?.textContent", "a,b")
        page.wait(state_of("a"), "open").wait(state_of("c"), "closed")
        turn(page, "bc", "b,c")
        page.wait(state_of("c"), "open").wait(state_of("a"), "closed")
    page.wait("heard.b.length", len(published))
    assert page.value("heard.b") == published
    assert page.value("states.b") == ["connecting", "open"]
    assert page.value("first === loaded && links.length") == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_page_that_is_behind_the_one_before(visit, library):
    """It is sent what was published after its stamp, also what the page before it has heard."""
    page = open_first(visit(), library=library, late="new")
    page.wait(LIST, "new a,b; ")
    turn(page, "bc", "b,c")
    page.wait(state_of("c"), "open").wait(LIST, "new b,c; ")
    assert page.value("heard.b")[:2] == ["new a,b", "new b,c"]
    publish("b", "now", broadcast=True)
    page.wait(LIST, "new b,c; now; ")
    assert page.value("first === loaded && links.length") == 1
    assert page.value("problems") == []


def test_a_page_from_the_cache_that_is_behind(visit):
    """It has in it what it has heard, and is sent what it has not."""
    page = open_first(visit(), library="turbo.js", late="")
    publish("b", "before", broadcast=True)
    page.wait(LIST, "before; ")
    turn(page, "bc", "b,c")
    page.wait(state_of("c"), "open")
    publish("b", "elsewhere", broadcast=True)
    page.wait(LIST, "elsewhere; ")
    page.run("history.back()")
    page.wait("document.getElementById('shown')?.textContent", "a,b")
    page.wait(LIST, "before; elsewhere; ")
    publish("b", "now", broadcast=True)
    page.wait(LIST, "before; elsewhere; now; ")
    assert page.value("first === loaded && links.length") == 1


def test_the_page_is_left_and_comes_back(visit):
    """Nothing flashes while it is left; on the way back it has what it has missed, or is anew."""
    page = open_first(visit())
    publish("a", "before", broadcast=True)
    page.wait("heard.a", ["before"])
    page.open("/test/who")
    told = page.value("JSON.parse(sessionStorage.getItem('states'))")
    assert told == {"a": ["connecting", "open"], "b": ["connecting", "open"]}
    publish("a", "meanwhile", broadcast=True)
    page.run("history.back()")
    page.wait(state_of("a"), "open")
    page.wait("heard.a.at(-1)", "meanwhile")
