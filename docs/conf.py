"""How Sphinx makes the site of the manual; ``make docs`` calls it."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer
from pygments.lexers.templates import HtmlDjangoLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "channels_ws4redis"
author = "channels_ws4redis contributors"
project_copyright = author
version = release = installed_version("channels-ws4redis")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # down to which level a heading is an anchor by its words

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_title = f"channels_ws4redis {release}"
html_theme_options = {
    "source_repository": "https://github.com/channels-ws4redis/channels_ws4redis/",
    "source_branch": "main",
    "source_directory": "docs/",
}


#: The comment that tells the tests in which file a block belongs, and the block's fence.
_FILE = re.compile(r"^<!-- (file|append): (\S+) -->\n```(\w+)$", re.MULTILINE)


def _caption(found: re.Match[str]) -> str:
    where = ", at its end" if found[1] == "append" else ""
    # As code, since a caption is Markdown, to which underscores are emphasis.
    return f"```{{code-block}} {found[3]}\n:caption: `{found[2]}`{where}\n"


def _name_files(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Show readers which file a block belongs in, as the comment tells it to the tests alone."""
    source[0] = _FILE.sub(_caption, source[0])


def setup(app: Sphinx) -> None:
    """Name files over their blocks, and lexers by the names that the manual uses."""
    app.connect("source-read", _name_files)
    app.add_lexer("html", HtmlDjangoLexer)  # the manual's HTML are Django's templates
    app.add_lexer("caddy", TextLexer)
