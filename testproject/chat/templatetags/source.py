"""``{% source %}``: a few lines of the demo's own code, as they are in its files."""

import textwrap
from typing import Any

from django import template

from testproject.paths import BASE_DIR

register = template.Library()


@register.inclusion_tag("chat/source.html")
def source(path: str, start: str) -> dict[str, Any]:
    """Show the block of a file that begins with the first line that contains `start`.

    :raises ValueError: if no line does, so that no page shows what is no longer there.
    """
    lines = (BASE_DIR / path).read_text().splitlines()
    return {"path": f"{BASE_DIR.name}/{path}", "code": _block(lines, start, path)}


def _block(lines: list[str], start: str, path: str) -> str:
    """Return what is indented deeper than its first line, and the brackets that close it."""
    first = next((number for number, line in enumerate(lines) if start in line), None)
    if first is None:
        raise ValueError(f"{path} has no line with {start!r}.")
    block = [lines[first]]
    for line in lines[first + 1 :]:
        closes = line.lstrip().startswith((")", "]", "}"))
        if line and _indent(line) <= _indent(lines[first]) and not closes:
            break
        block.append(line)
    return textwrap.dedent("\n".join(block)).rstrip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
