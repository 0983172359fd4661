"""Every page of the manual can be followed from top to bottom, and every block on it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import give_up
from tests.docs.blocks import PageError, read_page
from tests.docs.project import Project, Worker
from tests.servers import ROOT

#: Pages that another test follows from top to bottom, to see in a browser what they lead to.
ELSEWHERE = {ROOT / "docs" / name for name in ("tutorial.md", "howto/htmx.md")}

PAGES = [
    ROOT / "README.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if "_build" not in path.parts and path not in ELSEWHERE
    ),
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_can_be_followed(path: Path, tmp_path: Path, base: Path, worker: Worker) -> None:
    try:
        with Project(tmp_path, base, worker, read_page(path, ROOT)) as project:
            project.follow()
    except PageError as error:
        pytest.fail(str(error), pytrace=False)
    if project.missing:
        give_up(f"without {', '.join(sorted(project.missing))} some blocks were not checked")
