"""What pyproject.toml promises about the package."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.servers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Distributions that are a part of another one, whose objects we handle.
BROUGHT_BY = {"asgiref": "django", "autobahn": "daphne", "twisted": "daphne"}

#: What is declared although nothing imports it, and why.
NOT_IMPORTED = {"channels-redis": "its layers are part of what the package promises to work with"}


def normal(name: str) -> str:
    """Return a distribution's name without what follows it, as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower()


def imported() -> dict[str, set[str]]:
    """Return the modules from elsewhere that the package imports, and whose distributions they are.

    A distribution may put its plugins into a module of another one.
    """
    modules = set()
    for path in (ROOT / "channels_ws4redis").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module).partition(".")[0])
    distributions = packages_distributions()
    found = {}
    for module in modules - sys.stdlib_module_names - {"channels_ws4redis"}:
        names = {normal(name) for name in distributions.get(module, [module])}
        found[module] = {BROUGHT_BY.get(name, name) for name in names}
    return found


def test_what_is_imported_is_declared() -> None:
    """A package that comes in by another one may stop coming in."""
    declared = {normal(requirement) for requirement in PROJECT["dependencies"]}
    undeclared = {module for module, names in imported().items() if not names & declared}
    assert undeclared == set()
    used = set().union(*imported().values())
    assert declared - used <= NOT_IMPORTED.keys()


def test_the_oldest_python_is_among_the_classifiers() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["classifiers"]


def test_there_are_addresses() -> None:
    assert PROJECT["urls"]["Documentation"].startswith("https://")
