"""What docs/explanation/architecture.md promises: who imports whom, and how large things may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.servers import ROOT

PACKAGE = "channels_ws4redis"

#: The rooms of the engine, each of which may import itself and those before it.
ORDER = [
    "protocol",
    "conf",
    "store",
    "layers",
    "fanout",
    "handshake",
    "publish",
    "legacy",
    "pages",
    "serving",
]

#: What of the face has the name of a room, as parts of the face that are rooms build on it.
NAMED = {"redis_store": "legacy", "subscriber": "legacy", "exceptions": "legacy"}

#: Rooms that know only those named, whatever the order says.
KNOWS_ONLY = {"servers": {"conf", "protocol"}}

#: Rooms that may import `servers`, which stands beside the order.
ABOVE_SERVERS = {"fanout", "handshake", "serving"}

#: How large things may be.
MODULE_LINES = 300
CLASS_METHODS = 20
CLASS_ATTRIBUTES = 10
FUNCTION_LINES = 40
FUNCTION_BRANCHES = 8

#: What is larger all the same, by name, and why. It is meant to stay empty.
LARGER: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Where a function may go one way or another.
BRANCH = ast.If | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.match_case

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}


def room(module: str) -> str:
    """Return the room of a module; all that is not behind the face is ``face``."""
    first = module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]
    return NAMED.get(first, first if first in {*ORDER, "servers"} else "face")


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each module of the package that a module imports, anywhere."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: write out the relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # What is no module is a name in one.
            names = [name if name in FILES else str(node.module) for name in names]
        yield from ((node.lineno, name) for name in names if name in FILES and name != module)


def wrong(user: str, used: str) -> str | None:
    """Return what is wrong with a room that imports another one, or None."""
    if user in KNOWS_ONLY:
        allowed = {user, *KNOWS_ONLY[user]}
        return (
            None if used in allowed else f"{user} may import {' and '.join(sorted(allowed))} only"
        )
    if user in {"face", used}:
        return None
    if used == "face":
        return "nothing behind the face may import it, except layers"
    if used == "servers":
        return None if user in ABOVE_SERVERS else f"{user} must not know the servers"
    if ORDER.index(used) > ORDER.index(user):
        return f"{user} comes before {used}"
    return None


def test_imports_go_one_way() -> None:
    """From the face down to the settings, and never back up."""
    violations = [
        f"{module}:{line} imports {name}, but {reason}"
        for module in FILES
        for line, name in imports(module)
        if (reason := wrong(room(module), room(name)))
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_there_is_no_circle() -> None:
    """No module is imported by what it imports, not even within a function."""
    graph = {module: {name for _, name in imports(module)} for module in FILES}
    circles = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            first = circle.index(min(circle))
            circles.add(" -> ".join([*circle[first:], *circle[:first], min(circle)]))
        elif module not in done:
            for name in sorted(graph[module]):
                visit(name, [*path, module])
            done.add(module)

    done: set[str] = set()
    for module in graph:
        visit(module, [])
    assert not circles, "\n" + "\n".join(sorted(circles))


def definitions(node: ast.AST, name: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield all functions and classes within a node, each with its full name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield f"{name}.{child.name}", child
            yield from definitions(child, f"{name}.{child.name}")
        else:
            yield from definitions(child, name)


def attributes(node: ast.ClassDef) -> set[str]:
    """Return what the methods of a class set on ``self``, and the fields that it declares."""
    declared = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return declared | {
        item.attr
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute)
        and isinstance(item.ctx, ast.Store)
        and isinstance(item.value, ast.Name)
        and item.value.id == "self"
    }


def sizes(module: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield name, measure, value and bound of the module and of all that is in it."""
    text = FILES[module].read_text()
    yield module, "lines", len(text.splitlines()), MODULE_LINES
    for name, node in definitions(ast.parse(text), module):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(item, Function) for item in node.body)
            yield name, "methods", methods, CLASS_METHODS
            yield name, "attributes", len(attributes(node)), CLASS_ATTRIBUTES
        else:
            branches = sum(isinstance(item, BRANCH) for item in ast.walk(node))
            yield name, "lines", (node.end_lineno or 0) - node.lineno + 1, FUNCTION_LINES
            yield name, "branches", branches, FUNCTION_BRANCHES


@pytest.mark.parametrize("module", FILES)
def test_things_fit_on_a_screen(module: str) -> None:
    """A function is found whole on one screen, and a module is read in one go."""
    violations = [
        f"{name} has {value} {measure}, more than {bound}"
        for name, measure, value, bound in sizes(module)
        if value > bound and name not in LARGER
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_each_exception_is_needed() -> None:
    """What has become small again leaves the list."""
    large = {name for module in FILES for name, _, value, bound in sizes(module) if value > bound}
    assert LARGER.keys() <= large
