"""The browser side of legacy, unchanged: the original ws4redis.js on jQuery, and a bare socket."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Chromium, fetch_jquery, wait_until
from tests.legacy_site.servers import require_legacy_package
from tests.servers import AsgiServer

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def legacy_static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's static file out of its PyPI package, and jQuery out of its npm package."""
    folder = tmp_path_factory.mktemp("static")
    original = require_legacy_package() / "ws4redis" / "static" / "js" / "ws4redis.js"
    (folder / "original").mkdir()
    shutil.copy(original, folder / "original")
    fetch_jquery(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium.driver


@pytest.fixture
def site(serve, legacy_static) -> AsgiServer:
    """The ported legacy project, whose pages load the original script."""
    return serve(
        application="tests.legacy_site.asgi:application",
        settings={"WS4REDIS_HEARTBEAT": "--heartbeat--", "WS4REDIS_CLOSE_WINDOW": 0},
        DJANGO_SETTINGS_MODULE="tests.legacy_site.ported",
        LEGACY_STATIC=str(legacy_static),
    )


def texts(browser: Any) -> list[str]:
    """Return the lines on the page's billboard."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#billboard p')].map(p => p.textContent)"
    )


def state(browser: Any) -> list[str]:
    """Return what the page's callbacks have noted."""
    script = "return document.getElementById('state')?.textContent ?? ''"  # it may still load
    return browser.execute_script(script).split()


def say(browser: Any, text: str) -> None:
    """Send a message by the page's own button."""
    browser.execute_script(
        "$('#text_message').val(arguments[0]); $('#send_message').click();", text
    )


def test_chat(browser, site):
    """The original script connects, shows the stored message, chats, and swallows heartbeats."""
    browser.get(site.url("/chat/"))
    wait_until(lambda: state(browser), ["connecting", "connected"])
    wait_until(lambda: texts(browser), ["Hello everybody"])
    say(browser, "Grüße & <b>bold</b>")
    wait_until(lambda: texts(browser), ["Hello everybody", "Grüße & <b>bold</b>"])
    # Two heartbeats of the server's, and the script's own that it sends in answer to none.
    time.sleep(8)
    assert texts(browser) == ["Hello everybody", "Grüße & <b>bold</b>"]
    assert state(browser) == ["connecting", "connected"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_reconnect(browser, site, how):
    """After the server has gone and come back the original script connects again and chats on."""
    browser.get(site.url("/chat/"))
    wait_until(lambda: state(browser)[-1:], ["connected"])
    wait_until(lambda: texts(browser), ["Hello everybody"])
    site.stop(how)
    code = "1001" if how == signal.SIGTERM else "1006"
    wait_until(lambda: state(browser)[2:3], [f"disconnected:{code}"])
    site.start()
    wait_until(lambda: state(browser)[-1:], ["connected"])
    say(browser, "back again")
    wait_until(lambda: texts(browser)[-1:], ["back again"])


def test_close(browser, site):
    """close() of the original script ends the socket, and it stays closed."""
    browser.get(site.url("/chat/"))
    wait_until(lambda: state(browser)[-1:], ["connected"])
    say(browser, "close, please")
    wait_until(lambda: texts(browser)[-1:], ["close, please"])
    time.sleep(1)
    assert "connecting" not in state(browser)[2:]


def test_user_and_group(browser, site):
    """A page of a user gets the messages that views publish to the user and the user's groups."""
    browser.get(site.url("/login/"))
    browser.find_element("name", "username").send_keys("john")
    browser.find_element("name", "password").send_keys("secret")
    browser.find_element("css selector", "button").click()
    wait_until(lambda: browser.get_cookie("sessionid") is not None, True)
    browser.get(site.url("/userchat/"))
    wait_until(lambda: state(browser), ["connected"])
    for path, field, name in (("userchat", "user", "john"), ("groupchat", "group", "chatters")):
        browser.execute_script(
            "$.post(arguments[0], {[arguments[1]]: arguments[2], message: 'to ' + arguments[2]})",
            *(f"/{path}/", field, name),
        )
        wait_until(lambda: texts(browser)[-1:], [f"to {name}"])
    browser.delete_all_cookies()


def test_bare_socket(browser, site):
    """A page that opens a WebSocket by itself gets text frames, heartbeats among them."""
    browser.get(site.url("/bare/"))
    wait_until(
        lambda: texts(browser)[:2],
        ["string: --heartbeat--", "string: hello from a bare socket"],
    )
    site.stop()
    wait_until(lambda: texts(browser)[-1:], ["closed: 1001"])
