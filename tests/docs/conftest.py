"""What the pages of the manual are followed with: made once, as Django takes its time to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.project import Worker, make_base


@pytest.fixture(scope="session")
def worker(redis_url: str) -> Iterator[Worker]:
    """The process that runs what needs Django."""
    with Worker(redis_url) as worker:
        yield worker


@pytest.fixture(scope="session")
def base(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that every page begins with a copy of."""
    folder = tmp_path_factory.mktemp("manual") / "base"
    folder.mkdir()
    make_base(folder, worker)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a page is followed; its folder above is for a browser."""
    made = tmp_path / "page"
    made.mkdir()
    return made
