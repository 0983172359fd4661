"""A module of Python: where in it the package is named, and the same module with the new name.

All that is ever done is to insert a few letters, so everything else stays as it is, to the byte.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from typing import NamedTuple

from channels_ws4redis.port.texts import (
    FOLDER,
    INSERTED,
    MODULES,
    OLD,
    may_name_package,
    module_of,
    names_package,
)

NEW = INSERTED + OLD

_Placed = ast.expr | ast.stmt | ast.alias


class Note(NamedTuple):
    """What somebody has to decide."""

    line: int
    text: str


class Module(ast.NodeVisitor):
    """A module of Python, and what is to be inserted where.

    :raises SyntaxError: if this version of Python does not understand it, or its encoding.
    :raises ValueError: if it is not in the encoding that it declares.
    """

    def __init__(self, data: bytes) -> None:
        self._encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        try:
            text = data.decode(self._encoding)
        except LookupError as error:  # rot13 and the like are codecs, but none of texts
            raise ValueError(str(error)) from error
        if text.encode(self._encoding) != data:  # such as unicode_escape, utf-7
            raise ValueError(
                f"the encoding {self._encoding} does not keep every byte; port by hand"
            )
        #: The module as UTF-8, in whose bytes Python counts columns, and where its lines begin.
        self._code = text.encode()
        self._lines = [0, *(found.end() for found in re.finditer(rb"\r\n|\r|\n", self._code))]
        #: What is to be inserted, by the place.
        self._insertions: dict[int, str] = {}
        self.notes: list[Note] = []
        #: The nodes from the module down to that which is visited.
        self._path: list[ast.AST] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old escape in a text is no concern of ours
            tree = ast.parse(text)
        #: Whether anything else is called ws4redis; then the package keeps that name, by ``as``.
        self._keeps_name = any(OLD in _bound(node) for node in ast.walk(tree))
        self._renames = not self._keeps_name and any(map(_binds_package, ast.walk(tree)))
        self.visit(tree)

    @property
    def ported(self) -> bytes:
        """The module with all insertions."""
        code = self._code
        for place, text in sorted(self._insertions.items(), reverse=True):
            code = code[:place] + text.encode() + code[place:]
        return code.decode().encode(self._encoding)

    def visit(self, node: ast.AST) -> None:
        """Visit a node, with the way to it at hand."""
        self._path.append(node)
        super().visit(node)
        self._path.pop()

    def visit_Import(self, node: ast.Import) -> None:
        """``import ws4redis.publisher``."""
        for alias in node.names:
            package, _, module = alias.name.partition(".")
            if package == OLD:
                start, end = self._span(alias)
                self._insert(alias, start)
                self._note(alias, MODULES.get(module, ""))
                if self._keeps_name and not alias.asname:
                    again = f", {NEW}" if module else ""
                    self._insertions[end] = f"{again} as {OLD}"

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """``from ws4redis import publisher``."""
        package, _, module = (node.module or "").partition(".")
        if package == OLD and not node.level:
            start, end = self._span(node)
            keyword = re.match(rb"from[\s\\]+", self._code[start:end])
            self._insert(node, start + (keyword.end() if keyword else 0))
            for name in [module] if module else [alias.name for alias in node.names]:
                self._note(node, MODULES.get(name, ""))

    def visit_Name(self, node: ast.Name) -> None:
        """``ws4redis.publisher``, which an import has bound."""
        if node.id == OLD and self._renames:
            self._insert(node, self._span(node)[0])

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """``f"ws4redis.{name}"``: not every Python says where the texts in it stand."""
        for part in node.values:
            if not isinstance(part, ast.Constant):
                self.visit(part)
            elif str(part.value).startswith(f"{OLD}."):
                self._note(node, f"write {NEW!r} if this names the package")

    def visit_Constant(self, node: ast.Constant) -> None:
        """``"ws4redis.subscriber.RedisSubscriber"``, or ``"ws4redis"`` among the apps."""
        text = node.value
        if not isinstance(text, str) or OLD not in text:
            return
        start, end = self._span(node)
        literal = self._code[start:end]
        module = module_of(text)
        if not _is_literal(literal, text):
            self._note(node, f"look at {text!r}")
        elif module or names_package(text, self._path):
            self._insert(node, start + max(literal.find(OLD.encode()), 0))
            self._note(node, MODULES.get(module or "", ""))
        elif re.search(FOLDER, text):
            for found in re.finditer(FOLDER.encode(), literal):
                self._insert(node, start + found.start())
        elif may_name_package(text, self._path):
            self._note(node, f"{text!r} stays; write {NEW!r} in it if it names the package")

    def _span(self, node: _Placed) -> tuple[int, int]:
        """Return where a node begins and ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _insert(self, node: _Placed, place: int) -> None:
        if self._code.startswith(OLD.encode(), place):
            self._insertions[place] = INSERTED
        else:  # hidden by an escape, or in an f-string of an older Python
            self._note(node, f"write {NEW!r} here")

    def _note(self, node: _Placed, text: str) -> None:
        if text:
            self.notes.append(Note(node.lineno, text))


def _is_literal(code: bytes, text: str) -> bool:
    """Tell whether a text stands where Python says: older ones misplace what is in an f-string."""
    try:
        found: object = ast.literal_eval(f"({code.decode()})")
    except (SyntaxError, ValueError):
        return False
    return found == text


def _binds_package(node: ast.AST) -> bool:
    return isinstance(node, ast.Import) and any(
        alias.name.partition(".")[0] == OLD and not alias.asname for alias in node.names
    )


def _bound(node: ast.AST) -> list[str | None]:
    """Return the names that a node binds, but not those of an import without ``as``."""
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.Global | ast.Nonlocal):
        return [*node.names]
    if isinstance(node, ast.Import):
        return [alias.asname for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.arg):
        return [node.arg]
    return [] if isinstance(node, ast.alias) else [getattr(node, "name", None)]
