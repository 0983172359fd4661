"""The README is fit for a package index: short, and with links that lead somewhere from there.

Links between the manual's own pages are checked by Sphinx; see ``make docs``.
"""

from __future__ import annotations

import re
import tomllib

from markdown_it import MarkdownIt

from tests.servers import ROOT

README = ROOT / "README.md"
SITE = "https://channels-ws4redis.readthedocs.io/"
REPOSITORY = "https://github.com/channels-ws4redis/channels_ws4redis"
IN_REPOSITORY = re.compile(
    r"https://(?:github\.com/channels-ws4redis/channels_ws4redis/(?:blob|tree)"
    r"|raw\.githubusercontent\.com/channels-ws4redis/channels_ws4redis)/main/([^#]+)"
)


def links() -> list[str]:
    """Return the targets of all links and pictures of the README."""
    return [
        str(child.attrs.get("href") or child.attrs["src"])
        for token in MarkdownIt().enable("table").parse(README.read_text())
        for child in token.children or ()
        if child.type in {"link_open", "image"}
    ]


def test_the_readme_is_at_most_8_kb() -> None:
    assert len(README.read_bytes()) <= 8 * 1024


def test_every_link_of_the_readme_leads_somewhere() -> None:
    """No anchors: whether a page has them is known to Sphinx alone."""
    astray = []
    for link in links():
        if link.startswith(SITE):
            page = link.removeprefix(SITE).removeprefix("en/latest/") or "index.html"
            path = ROOT / "docs" / page.replace(".html", ".md")
        elif found := IN_REPOSITORY.fullmatch(link):
            path = ROOT / found[1]
        else:
            path = README.with_name(link)
        if not path.is_file() or not link.startswith("https://"):
            astray.append(link)
    assert links()
    assert astray == []


def test_the_readme_and_the_metadata_name_the_same_places() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"].values()
    assert {SITE, REPOSITORY} <= set(urls)
