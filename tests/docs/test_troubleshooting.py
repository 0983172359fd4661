"""The page on troubleshooting explains whatever the package may say when something is wrong."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from channels_ws4redis.protocol import codes
from tests.docs.test_reference import constants
from tests.servers import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
#: What the page has in a line's code, each … for what varies.
SHOWN = set(re.findall(r"`([^`\n]+)`", PAGE))
LOUD = {"warning", "error", "exception", "critical", "log"}
PLACEHOLDER = re.compile(r"%[sr]")
#: The consumer's own function, which puts the first word of its lines before this.
CONSUMER_LINE = "%s the socket %s: %s"


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Find the calls that log a warning or worse, with the places where they stand."""
    for path in sorted((ROOT / "channels_ws4redis").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner, name = ast.unparse(node.func.value), node.func.attr
                is_loud = owner == "logger" and name in LOUD
                is_consumers = name == "_log" and "DEBUG" not in ast.unparse(node)
                if is_loud or is_consumers:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def log_lines() -> dict[str, str]:
    """Return the lines that may be logged, as the page shows them, with their places."""
    lines = {}
    for place, call in log_calls():
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr == "_log":
            found = [CONSUMER_LINE.replace("%s", word, 1) for word in constants(call.args[0])]
        else:
            index = 1 if call.func.attr == "log" else 0
            found = [text for text in constants(call.args[index]) if text != CONSUMER_LINE]
        lines |= {PLACEHOLDER.sub("…", line): place for line in found}
    return lines


def test_every_warning_and_error_that_the_package_logs_is_explained() -> None:
    lines = log_lines()
    assert len(lines) > 20
    missing = {
        line: place
        for line, place in lines.items()
        if not any(shown.startswith(line.partition(": …")[0]) for shown in SHOWN)
    }
    assert missing == {}


def test_every_line_that_is_explained_may_be_logged() -> None:
    """What the page shows around each … stands in the code, so that no row outlives its line."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "channels_ws4redis").rglob("*.py")]
    logged = "\n".join(PLACEHOLDER.sub("…", text) for tree in trees for text in constants(tree))
    section = PAGE.partition("\n## Log lines\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`)(?:, .*?)? \|", section, re.MULTILINE)
    assert len(rows) > 20
    lines = re.findall(r"`([^`]+)`", "".join(rows))
    # What was lost is named by its place, in words of their own.
    for line in (line for line in lines if "lost the " not in line):
        why = re.sub(r"^\w+Error: ", "", line.rpartition(" the socket …: ")[2])
        missing = [part for part in why.split("…") if part.strip(" ':,;") not in logged]
        assert missing == [], line


def test_every_reason_for_which_a_socket_is_closed_is_explained() -> None:
    package = ROOT / "channels_ws4redis"
    nodes = [
        node
        for name in ("consumers", "serving/verdicts", "serving/ending", "serving/open_socket")
        for node in ast.walk(ast.parse((package / f"{name}.py").read_text()))
    ]
    reasons = {text for node in nodes for text in constants(node) if text[:4] == "its "}
    assert len(reasons) > 2
    for reason in reasons:
        assert f"`Closing the socket …: {reason}`" in PAGE


def test_every_close_code_is_explained() -> None:
    rows = set(re.findall(r"^\| (\d{4}) \|", PAGE, re.MULTILINE))
    ours = {str(value) for value in vars(codes).values() if isinstance(value, int)}
    assert ours
    assert ours | {"1006", "1012"} <= rows


def test_every_check_is_explained() -> None:
    checks = sorted((ROOT / "channels_ws4redis" / "checks").glob("*.py"))
    source = "".join(path.read_text() for path in checks)
    ids = set(re.findall(r'id="(ws4redis\.\w+)"', source))
    rows = set(re.findall(r"^\| `(ws4redis\.\w+)` \|", PAGE, re.MULTILINE))
    assert ids == rows
