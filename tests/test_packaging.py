"""What pyproject.toml, the changelog and the hosted CI say about the package, and each other."""

from __future__ import annotations

import ast
import datetime
import itertools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import channels_ws4redis
from tests.servers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
JOBS = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()

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


def combinations() -> list[dict[str, str]]:
    """Return what the matrix of the hosted CI comes to, as GitHub reads it."""
    axes: dict[str, Any] = dict(JOBS["compat"]["strategy"]["matrix"])
    excluded, included = axes.pop("exclude"), axes.pop("include")
    product = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return included + [
        one for one in product if not any(other.items() <= one.items() for other in excluded)
    ]


def classified(prefix: str) -> set[str]:
    """Return the versions, of the form 1.2, that the classifiers name."""
    found = (re.fullmatch(rf"{prefix} :: (\d+\.\d+)", line) for line in PROJECT["classifiers"])
    return {match[1] for match in found if match}


def oldest(distribution: str) -> str:
    """Return the oldest series of a distribution that the package works with, of the form 1.2."""
    requirements = map(Requirement, PROJECT["dependencies"])
    found = next(one for one in requirements if normal(one.name) == distribution)
    return "{}.{}".format(*Version(next(iter(found.specifier)).version).release)


def test_the_classifiers_name_the_versions_that_are_tested() -> None:
    assert classified("Programming Language :: Python") == {one["python"] for one in combinations()}
    assert classified("Framework :: Django") == {one["django"] for one in combinations()}


def test_the_oldest_versions_that_are_promised_are_tested() -> None:
    for axis, promised in {
        "python": PROJECT["requires-python"].removeprefix(">="),
        "django": oldest("django"),
        "redis-py": oldest("redis"),
    }.items():
        assert min((one[axis] for one in combinations()), key=Version) == promised


def test_every_redis_py_since_the_oldest_is_tested() -> None:
    majors = {Version(one["redis-py"]).major for one in combinations()}
    assert majors == set(range(min(majors), max(majors) + 1))


def test_a_server_besides_valkey_is_tested() -> None:
    assert any(one["server"].startswith("redis") for one in combinations())


def test_hosted_ci_runs_what_others_wrote_at_a_commit_and_may_only_read() -> None:
    """A tag can be moved by whoever takes over the repository of an action."""
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    for job in JOBS.values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 30
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])


def test_what_is_called_by_make_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in (
        ".ci/run",
        ".github/PULL_REQUEST_TEMPLATE.md",
        ".github/workflows/ci.yml",
        "CONTRIBUTING.md",
        "README.md",
        "docs/releasing.md",
    ):
        for call in re.findall(
            r"(?:`|^\$ |^|run: )(?:make|side_by_side) ([a-z][a-z -]*)",
            (ROOT / name).read_text(),
            re.MULTILINE,
        ):
            assert set(call.split()) <= targets, f"{name}: make {call}"


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert str(Version(channels_ws4redis.__version__)) == channels_ws4redis.__version__


def test_the_changelog_names_each_version_with_its_date_and_a_link() -> None:
    """The newest first; what has been released under a number is not listed as unreleased."""
    first, *headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert first == "[Unreleased]"
    released = []
    for heading in headings:
        match = re.fullmatch(r"\[([\d.]+)\] - (\d{4}-\d{2}-\d{2})", heading)
        assert match, f"{heading!r} is not of the form [1.2.3] - 2027-03-14"
        released.append((Version(match[1]), datetime.date.fromisoformat(match[2])))
    assert released == sorted(released, reverse=True)
    links = re.findall(r"^\[(.+)\]: https://\S+$", CHANGELOG, re.MULTILINE)
    assert links == ["Unreleased", *(str(version) for version, _ in released)]
    version = Version(channels_ws4redis.__version__)
    newest = max((version for version, _ in released), default=Version("0"))
    if version.is_devrelease:
        assert newest < version
    else:
        assert newest == version


def test_there_are_addresses() -> None:
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())
    assert PROJECT["urls"]["Documentation"] in (ROOT / ".readthedocs.yaml").read_text()
