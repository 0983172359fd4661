"""Finding out who sockets are that connect together: their sessions and users are read at once.

By itself a socket takes a thread, and two queries. Who asks while others are looked up waits for
the end of that, and is then looked up with all who wait. Nobody joins a look-up that has begun: it
may have read a session that has ended since.

Whatever may find others for a single socket has no part in this: a session engine, a backend or a
manager of the project's own, and databases that a router chooses. Whether a user may log in, the
project's own code says in the context of the socket. The answer is one-sided, as in `facts`. Where
it is not certain, nothing is said. The socket is then looked up by itself, and only that decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from contextvars import Context, copy_context
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from django.contrib.auth import SESSION_KEY
from django.db import router

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake import deadlines
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.readers import AT_ONCE, can_read, read_sessions
from channels_ws4redis.handshake.requests import WebSocketRequest, nobody
from channels_ws4redis.handshake.sessions import authenticate, session_engine
from channels_ws4redis.handshake.threads import FairQueue
from channels_ws4redis.handshake.users import Users
from channels_ws4redis.store.fairness import let_others
from channels_ws4redis.store.loops import this_loop

#: Turns of the event loop in which others may come before a look-up begins. While many connect that
#: makes it three times as large, and costs hardly anything while nobody does.
TURNS: Final = 10

#: Seconds in which users are judged together. Where the project's own code takes longer, such as
#: for a query, the rest is looked up in threads side by side.
JUDGING: Final = 0.25


class Visitor(NamedTuple):
    """Who stands behind a session cookie."""

    session: Any
    user: Any


async def aauthenticate(request: WebSocketRequest, calls: Calls) -> None:
    """Set the session and the user of a request; asyncio twin of `sessions.authenticate`.

    :param calls: run what may block for this socket.
    :raises channels_ws4redis.handshake.refusals.BusyError: if no thread is free in time.
    :raises Exception: whatever says that the database or the cache cannot be asked at the moment.
    """
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return
    visitor = None
    if not router.routers and can_read(key):
        visitor = await this_loop().get(LookUps, LookUps).ask(key, calls)
    if visitor is None:
        await calls.look_up(authenticate, request)
    else:
        request.session, request.user = visitor


@dataclass(eq=False, slots=True)
class Asker:
    """A socket that waits to be looked up."""

    key: str
    #: Of its task.
    context: Context
    #: Whom it counts for.
    whom: Hashable
    answer: asyncio.Future[Visitor | None]


class LookUps:
    """Looks up the sockets of an event loop, all that wait at a time."""

    def __init__(self) -> None:
        # Of many more than there is room for, each client gets some.
        self._waiting: FairQueue[Asker] = FairQueue(AT_ONCE)
        #: Looks up whoever waits; None, or done, while nobody does.
        self._task: asyncio.Task[None] | None = None
        #: When the look-up that is under way has begun, by `time.monotonic`.
        self._begun = 0.0
        self._calls = Calls.for_many("those who connect")

    async def ask(self, key: str, calls: Calls) -> Visitor | None:
        """Return who has a session of this key; None if that is not certain, or takes too long.

        :param calls: those of the socket that asks.
        """
        if self._task is None or self._task.done():
            self._begun = time.monotonic()
            # In a context of its own, as it serves others than who is the first.
            self._task = this_loop().spawn(self._serve(), "ws4redis-look-up", Context())
        elif time.monotonic() - self._begun > deadlines.TOGETHER:
            return None  # it hangs
        asker = Asker(key, copy_context(), calls.whom, asyncio.get_running_loop().create_future())
        self._waiting.add(asker)
        try:
            patience = min(deadlines.TOGETHER, calls.time_left)
            await asyncio.wait([asker.answer], timeout=patience)
        finally:
            self._waiting.discard(asker)
        return asker.answer.result() if asker.answer.done() else None

    async def _serve(self) -> None:
        while askers := await self._next():
            self._begun = time.monotonic()
            await self._look_up(askers)

    async def _next(self) -> list[Asker]:
        """Return those whose turn it is; others who are about to ask are waited for."""
        await let_others(TURNS)
        askers = []
        while (asker := self._waiting.take()) is not None:
            askers.append(asker)
        for asker in askers:
            self._waiting.ended(asker)
        return askers

    async def _look_up(self, askers: Sequence[Asker]) -> None:
        visitors: Sequence[Visitor | None] = [None] * len(askers)
        asked = [(asker.key, asker.context) for asker in askers]
        try:
            visitors = await self._calls.look_up(recognise, asked)
        except Exception:  # noqa: BLE001, S110 # each of them asks by itself, and tells of it
            pass
        finally:
            for asker, visitor in zip(askers, visitors, strict=True):
                if not asker.answer.done():
                    asker.answer.set_result(visitor)


def recognise(asked: Sequence[tuple[str, Context]]) -> list[Visitor | None]:
    """Return who has sessions of some keys, key by key; None where that is not certain.

    This asks the database and so blocks. There are two queries for all of them.

    :param asked: keys such as `readers.can_read`, each with the context of its socket, in which the
        project's own code judges the user.
    :raises Exception: whatever says that the database or the cache cannot be asked at the moment.
    """
    sessions = read_sessions({key for key, _ in asked})
    users = Users(sessions.values())
    end = time.monotonic() + JUDGING
    own = _Own()
    return [
        context.run(_recognise, key, sessions.get(key), users, own)
        if time.monotonic() < end
        else None
        for key, context in asked
    ]


def _recognise(key: str, data: dict[str, Any] | None, users: Users, own: _Own) -> Visitor | None:
    if data is None:
        return Visitor(session_engine()(), nobody())
    try:
        user = nobody()
        if SESSION_KEY in data:
            user = users.logged_in_by(data)
            if user is None or not user.is_authenticated:
                return None
        session = session_engine()(key)
        session._session_cache = own.of(data)
        session._get_session()  # counts as looked at
        return Visitor(session, own.of(user))
    except Exception:  # noqa: BLE001 # of the project's user or backend, about this one alone
        return None


class _Own:
    """Gives each of several sockets of one session or user its own, as hooks may change them."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def of(self, found: Any) -> Any:
        """Return what was found, or a copy if another socket has that."""
        if id(found) in self._given:
            return deepcopy(found)
        self._given.add(id(found))
        return found
