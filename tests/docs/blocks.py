"""Pages of the manual, and the blocks of code in them.

What is done with a block is told by its language and by HTML comments on the lines before it:

``file: PATH``       the block is written to that file of the page's folder
``append: PATH``     the block is appended to it
``serves``           the last command of the block is a server, which runs until the end of the page
``runs on``          the last command runs until then too, and is ready when it prints what is shown
``not run: REASON``  the block is not run
``before: COMMAND``  the command is run silently before the block
``setup CODE``       Python that comes before this and every later block of Python on the page
``empty folder``     below a page's title: it begins without a Django project

Pages are parsed by the parser that Sphinx uses for them, so that what counts as a block is what a
reader sees as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

#: Directives of Sphinx whose content is Markdown again.
_PROSE = {"note", "tip", "hint", "important", "warning", "caution", "seealso", "admonition"}
#: Directives without code of their own.
_NO_CODE = {"toctree", "contents", "eval-rst"}

_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_MARKER = re.compile(
    r"(file|append|not run|before):\s*(.*)|(serves|runs on|empty folder)$", re.DOTALL
)
_SETUP = re.compile(r"setup\b:?[ \t]*\n?(.*)", re.DOTALL)


class PageError(Exception):
    """A page cannot be understood, or a block of it has failed."""


@dataclass(frozen=True)
class Block:
    """One block of code."""

    page: str
    line: int  # of the fence
    language: str
    text: str
    marker: str = ""  # file, append, serves, runs on or not run
    argument: str = ""  # of the marker: a path or a reason
    setup: str = ""
    before: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The page and the line, as editors and terminals link them."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """One page: whether it begins in an empty folder, and its blocks in their order."""

    name: str
    empty: bool
    blocks: tuple[Block, ...]


def read_page(path: Path, root: Path) -> Page:
    """Read a page from its file; its name is the path from the root."""
    return parse_page(path.relative_to(root).as_posix(), path.read_text())


def parse_page(name: str, text: str) -> Page:
    """Find the blocks of a page."""
    parser = _Parser(name)
    blocks = tuple(parser.parse(text))
    return Page(name, parser.empty, blocks)


class _Parser:
    def __init__(self, name: str) -> None:
        self.name = name
        self.empty = False
        self._setup = ""
        self._pending: list[tuple[int, str, str]] = []  # markers that wait for their block

    def parse(self, text: str, first_line: int = 1) -> Iterator[Block]:
        for token in MarkdownIt().parse(text):
            line = first_line + (token.map[0] if token.map else 0)
            if token.type == "html_block" and token.content.lstrip().startswith("<!--"):
                for comment in _COMMENT.findall(token.content):
                    self._read_marker(line, comment.strip())
            elif token.type == "fence" and token.info.startswith("{"):
                yield from self._parse_directive(line, token.info, token.content)
            elif token.type == "fence":
                yield self._make_block(line, token.info.strip(), token.content)
            elif token.type == "code_block":
                raise PageError(f"{self.name}:{line}: an indented block; fence it")
            elif self._pending:
                break
        if self._pending:
            at, marker, _ = self._pending[0]
            raise PageError(f"{self.name}:{at}: no block follows the comment '{marker}'")

    def _parse_directive(self, line: int, info: str, content: str) -> Iterator[Block]:
        name = info[1:].partition("}")[0]
        if name in _PROSE:
            yield from self.parse(content, line + 1)
        elif name not in _NO_CODE:
            raise PageError(f"{self.name}:{line}: no way is known to run a directive {{{name}}}")

    def _read_marker(self, line: int, comment: str) -> None:
        if found := _SETUP.fullmatch(comment):
            self._setup += found[1] + "\n"
        elif found := _MARKER.fullmatch(comment):
            marker, argument = found[1] or found[3], (found[2] or "").strip()
            if marker == "empty folder":
                self.empty = True
            elif found[1] and not argument:
                raise PageError(f"{self.name}:{line}: '{marker}' of what?")
            else:
                self._pending.append((line, marker, argument))
        else:
            raise PageError(f"{self.name}:{line}: an unknown comment: {comment}")

    def _make_block(self, line: int, language: str, text: str) -> Block:
        markers, self._pending = self._pending, []
        before = tuple(argument for _, marker, argument in markers if marker == "before")
        others = [(marker, argument) for _, marker, argument in markers if marker != "before"]
        if len(others) > 1:
            raise PageError(f"{self.name}:{line}: two comments say what to do with one block")
        marker, argument = others[0] if others else ("", "")
        if not language:
            raise PageError(f"{self.name}:{line}: a block without a language")
        return Block(self.name, line, language, text, marker, argument, self._setup, before)
