"""Workers for the tests: ``manage.py runworker`` in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.servers import ROOT

#: Seconds to wait for something.
PATIENCE = 20


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # as Redis tells nobody
            await asyncio.sleep(0.01)


@contextmanager
def worker(redis_url: str, *channels: str) -> Iterator[subprocess.Popen]:
    """Run ``manage.py runworker``."""
    settings = {"ASGI_APPLICATION": "tests.site.workers.application"}
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "runworker", *channels],
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.site.settings",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'testproject'}",
            "REDIS_URL": redis_url,
            "WS4REDIS_TEST_SETTINGS": json.dumps(settings),
        },
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
