"""The legacy package's own server, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from testproject.embedded import find_free_port
from tests.benchmarks import servers as bench
from tests.browser import give_up
from tests.servers import ROOT

#: Seconds for it to start.
PATIENCE = 30


def require_legacy_package() -> Path:
    """Return the site-packages of an environment with the legacy package, made when first used.

    It has Django 3.2 and redis-py 3.5.3, which the package needs. Where it cannot be made the tests
    are skipped, but on CI they fail.
    """
    try:
        bench.ensure_legacy()
    except bench.UnavailableError as error:
        give_up(f"The legacy package cannot be installed: {error}")
    return next(bench.LEGACY.glob("lib/python*/site-packages"))


class LegacyServer:
    """uWSGI with gevent serving the example project by the legacy package."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.port = find_free_port()
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [
            *(str(bench.LEGACY / "bin" / "uwsgi"), "--http-socket", f"127.0.0.1:{self.port}"),
            *("--http-websockets", "--gevent", "100", "--processes", "1", "--die-on-term"),
            *("--virtualenv", str(bench.LEGACY), "--pythonpath", str(ROOT), "--disable-logging"),
            *("--module", "tests.legacy_site.wsgi:application"),
        ]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONPATH" and not name.startswith(("COV", "COVERAGE"))
        }
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment
                | {"DJANGO_SETTINGS_MODULE": "tests.legacy_site.settings"}
                | dict(self._environment),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + PATIENCE
        while "spawned uWSGI worker" not in self.log:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(self.log)
            time.sleep(0.05)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        # Not SIGTERM: it would wait for its sockets.
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        """What the server has printed."""
        return self._log.read_text(errors="replace")

    def url(self, path: str = "/") -> str:
        """Return the HTTP address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def socket_url(self, path: str) -> str:
        """Return the WebSocket address of a path."""
        return f"ws://127.0.0.1:{self.port}{path}"
