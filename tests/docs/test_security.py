"""What the security model says that the package holds is held by tests that exist.

In the section "What the package makes sure of" each item of a list and each row of a table has a
footnote, and a footnote names tests: ``tests/handshake/test_origins.py::test_origin``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt

from tests.docs.test_reference import code
from tests.servers import ROOT

PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text()

_FOOTNOTE = re.compile(r"^\[\^([\w-]+)\]:(.*(?:\n    .*)*)", re.MULTILINE)
_REFERENCE = re.compile(r"\[\^([\w-]+)\](?!:)")
_TITLE = re.compile(r"\btest\(\s*(['`\"])(.*?)\1")


def footnotes() -> dict[str, str]:
    """Return the page's footnotes by their labels."""
    return {label: " ".join(text.split()) for label, text in _FOOTNOTE.findall(PAGE)}


def promises() -> Iterator[str]:
    """Yield each item of a list and each row of a table of what the package holds."""
    section = PAGE.partition("\n## What the package makes sure of\n")[2].partition("\n## ")[0]
    tokens = MarkdownIt().enable("table").parse(section)
    row: list[str] | None = None
    in_list = False
    for token in tokens:
        if token.type == "tbody_open":
            row = []
        elif token.type == "tbody_close":
            row = None
        elif token.type == "tr_close" and row is not None:
            yield " | ".join(row)
            row = []
        elif token.type == "inline" and row is not None:
            row.append(token.content)
        elif token.type == "paragraph_open" and token.level > 0:
            in_list = True
        elif token.type == "inline" and in_list:
            yield token.content
            in_list = False


def named_in(footnote: str) -> list[str]:
    """Return the tests that a footnote names."""
    return [span for span in code(MarkdownIt().parseInline(footnote)[0]) if "::" in span]


def exists(name: str) -> bool:
    """Tell whether there is a test of this name, in Python or JavaScript."""
    file, _, test = name.partition("::")
    path = ROOT / file
    if not path.is_file():
        return False
    if path.suffix == ".mjs":
        return test in {title for _, title in _TITLE.findall(path.read_text())}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(path.read_text()).body
    return test in {node.name for node in body if isinstance(node, functions)}


def test_each_line_of_what_the_package_holds_has_a_footnote() -> None:
    assert list(promises())
    assert [promise for promise in promises() if not _REFERENCE.search(promise)] == []


def test_each_footnote_is_referred_to_and_there() -> None:
    assert set(_REFERENCE.findall(PAGE)) == footnotes().keys()


@pytest.mark.parametrize("label", footnotes())
def test_each_test_that_a_footnote_names_exists(label: str) -> None:
    named = named_in(footnotes()[label])
    assert named
    assert [name for name in named if not exists(name)] == []


def test_each_test_that_the_page_on_migrating_names_exists() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text()
    named = re.findall(r"`(tests/[^`]+::[^`]+)`", page)
    assert len(named) > 10
    assert [name for name in named if not exists(name)] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("tests/docs/test_security.py::test_a_name_is_looked_up", True),
        ("tests/docs/test_security.py::exists_not", False),
        ("tests/docs/nowhere.py::test_a_name_is_looked_up", False),
        ("tests/js/loading.test.mjs::a socket may be called ${name}", True),
        ("tests/js/loading.test.mjs::a socket may be called", False),
    ],
)
def test_a_name_is_looked_up(name: str, there: bool) -> None:
    assert exists(name) is there
