"""The how-to pages that lead to something in a browser lead there."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.browser import Chromium
from tests.docs.blocks import Block, read_page
from tests.docs.project import Project, Worker
from tests.servers import ROOT

pytestmark = pytest.mark.browser

LINES = "[...document.querySelectorAll('#stock li')].map((line) => line.textContent)"


def the_block(blocks: tuple[Block, ...], text: str) -> Block:
    """Return the one block of a page that contains a text."""
    (found,) = [block for block in blocks if text in block.text]
    return found


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
