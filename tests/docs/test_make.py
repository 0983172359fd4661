"""What make does can be done without it, as on Windows; the page on contributing says how."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.servers import ROOT

MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", " ")
PAGE = (ROOT / "CONTRIBUTING.md").read_text()

#: Make's variables. The page names a number of workers; make counts the processors.
VALUES = dict(re.findall(r"^(\w+) \??= ?(.*)$", MAKEFILE, re.MULTILINE)) | {"WORKERS": "4"}

#: By target, the cell of the page with what to do without make.
TABLE = dict(re.findall(r"^\| `make ([\w-]+)` \| (`python .*) \|$", PAGE, re.MULTILINE))


def expanded(line: str) -> str:
    """Return a line of a recipe with make's variables put in."""
    while found := re.search(r"\$\((\w+)\)", line):
        line = line.replace(found[0], VALUES[found[1]])
    return line.removeprefix("@")


def calls_of_python(target: str) -> list[str]:
    """Return the commands by which a target runs Python."""
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    lines = [line.strip() for line in recipe.splitlines()]
    return [expanded(line) for line in lines if re.match(r"@?\$\((VENV|SIDE_BY_SIDE)\)", line)]


def words(command: str) -> list[str]:
    """Return the words of a command, however they are quoted, and wherever its Python is."""
    python, *others = shlex.split(command)
    return [python.removeprefix(".venv/bin/"), *others]


def test_the_page_has_the_targets_that_one_needs() -> None:
    assert {"quick", "lint", "test", "docs", "demo", "bench", "torture"} <= set(TABLE)


@pytest.mark.parametrize("target", TABLE)
def test_it_is_what_make_runs(target: str) -> None:
    made = calls_of_python(target)
    assert made
    written = re.findall(r"`([^`]+)`", TABLE[target])
    assert [words(each) for each in written] == [words(each) for each in made]
