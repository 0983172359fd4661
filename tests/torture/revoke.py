"""Count what sockets get that they may not hear any more, while links are cut and servers frozen.

Run as ``python -m tests.torture.revoke`` it starts a Redis and two servers of its own. Users come,
connect, and lose their rights in one way or another, while others of their sockets connect. It
fails if a socket gets a message later than `BOUND` after the commit that forbade it, or after the
end of the fault that its server had then; or if a socket is closed that is still allowed. Where
nothing tells of a change, the time within which each socket is looked at again comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django
import websockets
from websockets.asyncio.client import connect

from tests.servers import ROOT, AsgiServer
from tests.torture.proxy import Proxy

#: Seconds after which nothing may be delivered any more.
BOUND = 1.0

#: Seconds that a link takes at most to be back once it may.
RELINKED = 1.0

#: Seconds within which each socket is looked at again.
REAUTHORIZE = 2.0

LIVES = 8
PATH = "/ws/foo?subscribe-user&subscribe-group"
GROUP = "members"


@dataclass
class Life:
    """One user, and when that user lost something."""

    name: str
    #: True while a socket may be closed: what is done to the user is under way or done.
    ending: bool = False
    #: Seconds until the change has to be found.
    bound: float = BOUND
    #: The commit after which nothing may be heard any more, or nothing of the auth group.
    all_ended: float | None = None
    group_ended: float | None = None

    def ended(self, of_group: bool) -> float | None:
        """Return since when a message may not be heard."""
        known = [self.all_ended, self.group_ended if of_group else None]
        return min((each for each in known if each is not None), default=None)


@dataclass
class Site:
    """A server behind a link that can be cut."""

    server: AsgiServer
    proxy: Proxy
    #: When its last fault ended; infinity while there is one.
    well_since: float = 0.0


@dataclass
class Counts:
    """What was seen."""

    sockets: int = 0
    messages: int = 0
    revoked: int = 0
    came_back: int = 0
    late: int = 0
    wrongly_closed: int = 0
    notes: list[str] = field(default_factory=list)


class Torture:
    """One run; made once Django has been set up."""

    def __init__(self, sites: Sequence[Site], seconds: float, chance: random.Random) -> None:
        self.counts = Counts()
        self._sites = sites
        self._end = time.monotonic() + seconds
        self._chance = chance
        self._lives: dict[str, Life] = {}
        self._numbers = itertools.count()
        #: One writer at a time: SQLite has no more.
        self._writing = asyncio.Lock()

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._end

    async def run(self) -> None:
        """Let users live and servers fail until the time is over."""
        lives = (self._live() for _ in range(LIVES))
        await asyncio.gather(self._publish(), self._break(), *lives)

    async def _write(self, work: Callable[[], Any]) -> Any:
        async with self._writing:
            return await asyncio.to_thread(work)

    # Users

    async def _live(self) -> None:
        ways: list[Callable[[Any, Any], None]] = [
            log_out, change_password, deactivate, delete, leave, lose_session, stay,
            *UNTOLD,
        ]  # fmt: skip
        while self._goes_on:
            user, request = await self._write(lambda: log_in(f"user{next(self._numbers)}"))
            key, life = request.session.session_key, Life(user.get_username())
            self._lives[life.name] = life
            sockets = self._connect(life, key, 3)
            await asyncio.sleep(self._chance.uniform(0.05, 1.5))
            way = self._chance.choice(ways)
            life.ending = way not in (leave, leave_untold, stay)
            life.bound += REAUTHORIZE if way in UNTOLD else 0
            sockets += self._connect(life, key, 3)
            await asyncio.sleep(self._chance.uniform(0, 0.05))
            await self._write(lambda way=way, user=user, request=request: way(user, request))
            if way in (leave, leave_untold):
                life.group_ended = time.monotonic()
            elif way is not stay:
                life.all_ended = time.monotonic()
            sockets += self._connect(life, key, 2)
            await asyncio.sleep(self._chance.uniform(0.2, 2) + life.bound)
            del self._lives[life.name]
            life.ending = True
            for socket in sockets:
                socket.cancel()
            await asyncio.gather(*sockets, return_exceptions=True)

    def _connect(self, life: Life, key: str, count: int) -> list[asyncio.Task[None]]:
        sites = [self._chance.choice(self._sites) for _ in range(count)]
        return [asyncio.create_task(self._listen(site, key, life)) for site in sites]

    async def _listen(self, site: Site, key: str, life: Life) -> None:
        try:
            async with connect(
                site.server.socket_url(PATH),
                additional_headers={"Cookie": f"sessionid={key}"},
                proxy=None,
                open_timeout=30,
                ping_interval=None,
            ) as socket:
                self.counts.sockets += 1
                async for message in socket:
                    self._judge(str(message), site, life)
        except websockets.ConnectionClosed as closed:
            self._note_end(closed.rcvd.code if closed.rcvd else None, life)
        except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
            self.counts.notes.append(f"not connected: {error!r}")

    def _judge(self, message: str, site: Site, life: Life) -> None:
        self.counts.messages += 1
        ended = life.ended(of_group=message == GROUP)
        if ended is None:
            return
        late = time.monotonic() - max(ended, site.well_since)
        if late > life.bound:
            self.counts.late += 1
            self.counts.notes.append(f"{message!r} on {site.server.kind}, {late:.2f} s late")

    def _note_end(self, code: int | None, life: Life) -> None:
        if code == 4501 and life.ending:
            self.counts.revoked += 1
        elif code == 1013:
            self.counts.came_back += 1
        elif not life.ending:
            self.counts.wrongly_closed += 1
            self.counts.notes.append(f"closed with {code}: {life}")

    # Others

    async def _publish(self) -> None:
        from channels_ws4redis.publisher import RedisPublisher  # noqa: PLC0415 # needs Django

        while self._goes_on:
            for name in list(self._lives):
                await RedisPublisher(facility="foo", users=[name]).apublish_message(name)
            await RedisPublisher(facility="foo", groups=[GROUP]).apublish_message(GROUP)
            await asyncio.sleep(0.03)

    async def _break(self) -> None:
        faults: list[Callable[[Site], Awaitable[None]]] = [self._cut, self._drop, self._freeze]
        while time.monotonic() < self._end - 4:
            await asyncio.sleep(self._chance.uniform(0.5, 3))
            site = self._chance.choice(self._sites)
            site.well_since = float("inf")
            await self._chance.choice(faults)(site)
            site.well_since = time.monotonic()

    async def _cut(self, site: Site) -> None:
        await site.proxy.cut()
        await asyncio.sleep(self._chance.uniform(0.1, 2))
        await site.proxy.start()
        await asyncio.sleep(RELINKED)

    async def _drop(self, site: Site) -> None:
        site.proxy.drop()
        await asyncio.sleep(RELINKED)

    async def _freeze(self, site: Site) -> None:
        site.server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.uniform(0.2, 2))
        site.server.process.send_signal(signal.SIGCONT)


# What is done to users, in this process, which serves no sockets


def log_in(name: str) -> tuple[Any, Any]:
    """Make a user of the auth group, and a request with a session of that user."""
    from django.contrib.auth import login  # noqa: PLC0415 # Django is set up late
    from django.contrib.auth.models import Group, User  # noqa: PLC0415
    from django.contrib.sessions.backends.db import SessionStore  # noqa: PLC0415
    from django.test import RequestFactory  # noqa: PLC0415

    user = User.objects.create(username=name)
    user.groups.add(Group.objects.get_or_create(name=GROUP)[0])
    request: Any = RequestFactory().get("/")
    request.session = SessionStore()
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    request.session.save()
    return user, request


def log_out(user: Any, request: Any) -> None:
    """End the session as Django does."""
    from django.contrib.auth import logout  # noqa: PLC0415

    logout(request)


def change_password(user: Any, request: Any) -> None:
    """Make the session's hash stale."""
    user.set_unusable_password()
    user.save()


def deactivate(user: Any, request: Any) -> None:
    """Keep the user from logging in."""
    user.is_active = False
    user.save()


def delete(user: Any, request: Any) -> None:
    """Delete the user."""
    user.delete()


def leave(user: Any, request: Any) -> None:
    """Take the user out of the auth group."""
    user.groups.clear()


def lose_session(user: Any, request: Any) -> None:
    """Delete the session, which no signal tells, and say so."""
    from channels_ws4redis.control import refresh  # noqa: PLC0415

    request.session.delete()
    refresh(users=[user])


def stay(user: Any, request: Any) -> None:
    """Do nothing."""


def deactivate_untold(user: Any, request: Any) -> None:
    """Keep the user from logging in, which no signal tells."""
    type(user).objects.filter(pk=user.pk).update(is_active=False)


def leave_untold(user: Any, request: Any) -> None:
    """Take the user out of the auth group, which no signal tells."""
    type(user).groups.through.objects.filter(user=user).delete()


def delete_session_untold(user: Any, request: Any) -> None:
    """Delete the session from its table, which no signal tells."""
    request.session.model.objects.filter(pk=request.session.session_key).delete()


def outlive_session_untold(user: Any, request: Any) -> None:
    """Let the session be too old."""
    request.session.set_expiry(-1)
    request.session.save()


#: What is only found when a socket is looked at for no reason.
UNTOLD = (deactivate_untold, leave_untold, delete_session_untold, outlive_session_untold)


# The command


async def _torture(redis: Any, database: Path, seconds: float, seed: int) -> Counts:
    sites = []
    try:
        for kind in ("daphne", "uvicorn"):
            proxy = Proxy(redis.port)
            await proxy.start()
            server = AsgiServer(
                kind,
                settings={"WS4REDIS_HISTORY": 100, "WS4REDIS_REAUTHORIZE": REAUTHORIZE},
                REDIS_URL=f"redis://127.0.0.1:{proxy.port}",
                WS4REDIS_TEST_LAYER="redis",
                WS4REDIS_TEST_DATABASE=str(database),
            )
            sites.append(Site(await asyncio.to_thread(server.start), proxy))
        torture = Torture(sites, seconds, random.Random(seed))  # no secret
        await torture.run()
        return torture.counts
    finally:
        for site in sites:
            await asyncio.to_thread(site.server.stop)
            await site.proxy.close()


def _set_up(redis: Any, database: Path) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"
    os.environ["REDIS_URL"] = redis.url
    os.environ["WS4REDIS_TEST_DATABASE"] = str(database)
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415 # after the line above
    from django.db import connection  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    # Or a server that is frozen while it reads would keep us from writing.
    connection.cursor().execute("PRAGMA journal_mode=WAL")
    connection.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the torture and return the exit code of the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.revoke", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    print(f"Seed {options.seed}")
    sys.path.insert(0, str(ROOT / "testproject"))
    from testproject.embedded import RedisServer  # noqa: PLC0415 # after the line above

    with tempfile.TemporaryDirectory() as folder, RedisServer(port=0) as redis:
        database = Path(folder) / "db.sqlite3"
        _set_up(redis, database)
        counts = asyncio.run(_torture(redis, database, options.seconds, options.seed))
    for label, value in vars(counts).items():
        if label != "notes":
            print(f"{label:20}{value:>10}")
    print(*counts.notes[:20], sep="\n")
    if not counts.revoked or counts.late or counts.wrongly_closed:
        print("Sockets were told too much, or closed for nothing.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
