"""The tutorial keeps its promise: a message in two browsers."""

from __future__ import annotations

import contextlib
import urllib.request
from pathlib import Path

import pytest

from tests.browser import Chromium, wait_until
from tests.docs.blocks import read_page
from tests.docs.project import Project, Worker
from tests.servers import ROOT

pytestmark = pytest.mark.browser

NEWS = "[...document.querySelectorAll('#news li')].map((item) => item.textContent)"


def has_form(project: Project) -> bool:
    """Tell whether the server has noticed the page's last change."""
    with contextlib.suppress(OSError), urllib.request.urlopen(project.url(), timeout=5) as answer:
        return b"<form" in answer.read()
    return False


def test_a_message_appears_in_two_browsers(
    tmp_path: Path, folder: Path, base: Path, worker: Worker
) -> None:
    """What is kept comes first, one window writes to both, and a restart loses nothing."""
    tutorial = read_page(ROOT / "docs" / "tutorial.md", ROOT)
    with Project(folder, base, worker, tutorial) as project, Chromium(tmp_path) as browser:
        project.follow()
        wait_until(lambda: has_form(project), True)
        from_shell = ["Hello from the shell", "You were away"]
        with browser.person() as john, browser.person() as mary:
            windows = [person(project).open("/").wait(NEWS, from_shell) for person in (john, mary)]
            windows[0].run("document.querySelector('input[name=text]').value = 'Hello, both'")
            windows[0].run("document.querySelector('button').click()")
            for window in windows:
                window.wait(NEWS, [*from_shell, "Hello, both"])
            (serves,) = [block for block in tutorial.blocks if block.marker == "serves"]
            (away,) = [block for block in tutorial.blocks if "You were away" in block.text]
            project.stop(project.port(8000))
            project.do(away)
            project.do(serves)
            for window in windows:
                window.wait(NEWS, [*from_shell, "Hello, both", "You were away"])
                assert window.value("problems") == []
