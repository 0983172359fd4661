"""Who is measured: the server, the application and the way of publishing of each contender."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import servers

_APPS = "tests.benchmarks.apps"


@dataclass(frozen=True)
class Contender:
    """One way of bringing messages to sockets."""

    key: str
    label: str
    server: str
    app: str
    feed: str
    layer: str = "none"
    quick: bool = False
    #: Messages on their way at once while the rate is measured.
    window: int = 4
    #: How many sockets one process can hold at all.
    most_sockets: int = 1_000_000
    processes: int = 1

    def command(self, folder: Path, port: int) -> list[str]:
        """Return the command that serves this contender on a loopback port."""
        if self.server == "nginx":
            return servers.nginx(folder, port)
        if self.server == "uwsgi":
            return servers.uwsgi(self.app, port)
        start = {"daphne": servers.daphne, "uvicorn": servers.uvicorn}[self.server]
        if self.processes == 1:
            return start(self.app, port)
        return servers.several(start(self.app, None), port, self.processes)

    def python(self) -> str:
        """Return the interpreter in whose environment this contender is installed."""
        return str(servers.LEGACY / "bin" / "python") if self.feed == "legacy" else sys.executable

    def prepare(self) -> None:
        """Install what this contender needs and the development environment has not."""
        if self.server == "uwsgi":
            servers.ensure_legacy()
        elif self.server == "nginx":
            servers.ensure_nchan()


def _asgi(
    key: str, label: str, app: str, feed: str, layer: str = "none", *, quick: tuple[str, ...]
) -> list[Contender]:
    return [
        Contender(
            f"{key}-{server}", f"{label}, {server}", server, app, feed, layer, server in quick
        )
        for server in ("daphne", "uvicorn")
    ]


_BOTH = ("daphne", "uvicorn")
_CEILING = _asgi("ceiling", "ceiling", f"{_APPS}.ceiling:application", "redis", quick=_BOTH)
_PUBSUB = _asgi(
    "pubsub",
    "textbook, pubsub layer",
    f"{_APPS}.textbook:application",
    "channels",
    "pubsub",
    quick=("daphne",),
)
_CORE = _asgi(
    "core", "textbook, core layer", f"{_APPS}.textbook:application", "channels", "core", quick=()
)
_PACKAGE = _asgi(
    "package", "this package", f"{_APPS}.package:application", "package", "own", quick=_BOTH
)
_BARE = _asgi("bare", "bare consumer", f"{_APPS}.textbook:bare", "redis", quick=("uvicorn",))
_LEGACY = Contender(
    "legacy",
    "legacy 0.6.0, uWSGI + gevent",
    "uwsgi",
    f"{_APPS}.legacy_wsgi:application",
    "legacy",
    # It reads one message per wake-up of a socket's Redis connection. A second one that has come in
    # the same packet waits in a buffer until a third arrives, so with several messages on their
    # way it sleeps most of the time; one at a time is its best case.
    window=1,
    # It passes file numbers to select(), which takes none above 1023, and has two per socket.
    most_sockets=500,
)
_NCHAN = Contender("nchan", "nchan, nginx", "nginx", "", "nchan")

#: Everybody who delivers messages.
DELIVERING = [*_CEILING, *_PACKAGE, _LEGACY, *_PUBSUB, *_CORE, _NCHAN]
#: Consumers that only accept: for connecting and memory.
IDLE = _BARE
