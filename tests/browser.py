"""Real pages in a real browser: Chromium, driven by selenium, and a link that can be cut."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
from websockets.sync.client import connect

from testproject.embedded import find_free_port

#: Seconds to wait for what must come.
PATIENCE = 20

#: Seconds between two looks at a page.
POLL = 0.03

FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("force-color-profile=srgb", "hide-scrollbars"),
)

#: Runs in each document before its own scripts: notes what must not happen in any of them.
WATCH = """
window.problems = [];
addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => {
  problems.push(`${violatedDirective} refused ${blockedURI}`);
});
addEventListener('error', ({ message, target }) => {
  problems.push(message || `${target.src} failed`);
}, true);
addEventListener('unhandledrejection', ({ reason }) => problems.push(String(reason)));
"""


def give_up(reason: str) -> NoReturn:
    """Skip the test, but fail it where everything is supposed to be installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find(program: str) -> str:
    """Return the path of a program."""
    path = shutil.which(program)
    if path is None:
        give_up(f"{program} is not installed")
    return path


def fetch_from_npm(package: str, member: str, path: Path) -> None:
    """Write one file of an npm package, such as ``jquery@3.7.1``, to a path."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [find("npm"), "pack", "--silent", "--pack-destination", folder, package],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            give_up(f"{package} could not be fetched: {done.stderr}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            source = archive.extractfile(f"package/{member}")
            assert source is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read())


def fetch_jquery(folder: Path) -> None:
    """Put jquery.min.js, out of its npm package, into a folder."""
    fetch_from_npm("jquery@3.7.1", "dist/jquery.min.js", folder / "jquery.min.js")


def wait_until(condition: Callable[[], Any], expected: Any, seconds: float = PATIENCE) -> None:
    """Wait until a function returns what is expected."""
    deadline = time.monotonic() + seconds
    while (found := condition()) != expected:
        assert time.monotonic() < deadline, f"{found!r} instead of {expected!r}"
        time.sleep(POLL)


class Chromium:
    """A browser without a window, and a second line to it past the driver.

    The driver makes no browser contexts, and it brings to the front whatever page it talks to.
    """

    def __init__(self, folder: Path) -> None:
        chromium, chromedriver = find("chromium"), find("chromedriver")
        webdriver = pytest.importorskip("selenium.webdriver")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"user-data-dir={folder}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        self.home = self.current = self.driver.current_window_handle
        self._calls = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        address = self.driver.capabilities["goog:chromeOptions"]["debuggerAddress"]
        with urllib.request.urlopen(f"http://{address}/json/version", timeout=PATIENCE) as answer:
            url = json.load(answer)["webSocketDebuggerUrl"]
        self._line = self._stack.enter_context(connect(url, proxy=None, max_size=None))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
        self.driver.quit()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol, of the browser or of an attached page."""
        self._calls += 1
        body = {"id": self._calls, "method": method, "params": params}
        if session is not None:
            body["sessionId"] = session
        self._line.send(json.dumps(body))
        while True:
            answer = json.loads(self._line.recv(PATIENCE))
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def switch(self, handle: str) -> None:
        """Let the driver talk to a page."""
        if handle != self.current:
            self.driver.switch_to.window(handle)
            self.current = handle

    @contextlib.contextmanager
    def person(self) -> Iterator[Callable[..., Page]]:
        """Somebody with cookies of their own: gives a function that opens pages of a site."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        try:
            yield lambda site: Page(self, context, site)
        finally:
            self.switch(self.home)
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def complaints(self) -> list[str]:
        """Return what the browser has logged since the last time and no page should cause.

        That it cannot connect while the server is away is the only thing that it may say; so may
        the client.
        """
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] != "INFO" and entry["source"] != "network"
            and "WebSocket connection to" not in entry["message"]
            and '"WS4Redis:" "ws' not in entry["message"]
        ]  # fmt: skip


class Page:
    """One tab of a person."""

    def __init__(self, browser: Chromium, context: str, site: Any) -> None:
        self.browser = browser
        self.context = context
        self.site = site
        target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=context, newWindow=True
        )
        self.handle: str = target["targetId"]
        self._session: str | None = None
        self.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    @property
    def driver(self) -> Any:
        """The driver, talking to this page."""
        self.browser.switch(self.handle)
        return self.browser.driver

    def open(self, path: str) -> Self:
        """Go to an address of the site."""
        self.driver.get(self.site.url(path))
        return self

    def reload(self) -> Self:
        """Load the page once more."""
        self.driver.refresh()
        return self

    def command(self, method: str, **params: Any) -> Any:
        """Call a method of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(method, params)

    def run(self, script: str, *args: Any) -> Any:
        """Run the body of a function in the page and return what it returns."""
        return self.driver.execute_script(script, *args)

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.run(f"return {expression}")

    def glimpse(self, expression: str) -> Any:
        """Return the value of an expression without bringing the page to the front."""
        if self._session is None:
            attached = self.browser.call(
                "Target.attachToTarget", targetId=self.handle, flatten=True
            )
            self._session = attached["sessionId"]
        answer = self.browser.call(
            "Runtime.evaluate", self._session, expression=expression, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, expected: Any = True, seconds: float = PATIENCE) -> Self:
        """Wait until an expression in the page has a value."""
        wait_until(lambda: self.value(expression), expected, seconds)
        return self

    def cover(self) -> str:
        """Open another tab in front of the page, and return its handle."""
        self.browser.switch(self.handle)
        target = self.browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self.context
        )
        handle: str = target["targetId"]
        self.browser.switch(handle)
        return handle

    def press(self, *keys: str) -> Self:
        """Type on the keyboard, wherever the focus is."""
        action_chains = pytest.importorskip("selenium.webdriver").ActionChains
        action_chains(self.driver).send_keys(*keys).perform()
        return self

    def chord(self, held: str, key: str) -> Self:
        """Press a key while another is held."""
        action_chains = pytest.importorskip("selenium.webdriver").ActionChains
        action_chains(self.driver).key_down(held).send_keys(key).key_up(held).perform()
        return self

    def post(self, path: str, **body: str) -> Self:
        """Post JSON from the page, with its cookies."""
        status = self.driver.execute_async_script(
            "const [path, body, done] = arguments;"
            "fetch(path, {method: 'POST', body}).then(({status}) => done(status), String);",
            path,
            json.dumps(body),
        )
        assert status == 200, status
        return self

    def login(self, username: str) -> Self:
        """Log in, past the login page."""
        return self.open("/test/who").post("/test/login", username=username, password="secret")

    def size(self, width: int, height: int, mobile: bool = False, scale: float = 1) -> Self:
        """Make the viewport as large as this."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )
        return self

    def scheme(self, name: str) -> Self:
        """Make the person prefer light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.command("Emulation.setEmulatedMedia", features=features)
        return self

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen into a PNG file."""
        assert self.driver.get_screenshot_as_file(str(path))


class Cable:
    """A TCP link to a server that can be frozen, as if the cable was pulled, and cut."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = find_free_port()
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(PATIENCE)
        self.cut()
        self._flowing.set()

    def url(self, path: str = "/") -> str:
        """Return the HTTP address of a path at this end of the cable."""
        return f"http://127.0.0.1:{self.port}{path}"

    def freeze(self) -> None:
        """Let nothing through any more; connections stay open and new ones are not answered."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything through again; what was frozen is gone, as after a change of networks."""
        self.cut()
        self._flowing.set()

    def cut(self) -> None:
        """Break every connection; new ones are possible at once."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            pair = _Pair(near, far)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=[source, sink, pair], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            self._open -= {source}
        pair.done()


class _Pair:
    """Two ends that are closed when both directions have ended."""

    def __init__(self, *ends: socket.socket) -> None:
        self._ends = ends
        self._left = len(ends)
        self._lock = threading.Lock()

    def done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        for end in self._ends:
            end.close()
