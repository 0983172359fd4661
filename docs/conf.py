"""How Sphinx makes the site of the manual; ``make docs`` calls it."""

from __future__ import annotations

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
html_title = f"channels_ws4redis {release}"
html_theme_options = {
    "source_repository": "https://github.com/channels-ws4redis/channels_ws4redis/",
    "source_branch": "main",
    "source_directory": "docs/",
}


def setup(app: Sphinx) -> None:
    """Name lexers for languages that Pygments does not know by the name the manual uses."""
    app.add_lexer("html", HtmlDjangoLexer)  # the manual's HTML are Django's templates
    app.add_lexer("caddy", TextLexer)
