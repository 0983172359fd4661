"""Lua scripts, and what is sent to Redis to have them run. No I/O."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script whose first line gives it the run id of the server it runs on.

    Redis forgets its scripts when it restarts, so a script that is still known proves that the
    server has not restarted since, and ``RUN`` in it is right without a look-up per call.
    """

    body: str

    def source(self, run_id: str) -> str:
        """Return the text for the server with this run id."""
        return f"local RUN = '{run_id}'\n{self.body}"

    def sha(self, run_id: str) -> str:
        """Return the digest under which that server knows the script."""
        return _sha(self.body, run_id)


@functools.lru_cache(maxsize=64)
def _sha(body: str, run_id: str) -> str:
    # SHA-1 is the name that EVALSHA asks for; nothing depends on its strength.
    return hashlib.sha1(Script(body).source(run_id).encode(), usedforsecurity=False).hexdigest()


class Command(NamedTuple):
    """A run of a script, as plain values, so that both kinds of client can send it."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


Reply = Any
Outcome = Reply | Exception

#: What is sent to Redis: the name of a command and its arguments.
Request = Sequence[str | bytes | int]

#: Asks for the run id of the server.
WHO: Request = ("INFO", "server")


class Batch:
    """Commands on their way in one exchange; the body that `run` and `Link` share.

    A script that Redis does not know (restart, ``SCRIPT FLUSH``, first use) is sent in full; it has
    not run before, so nothing happens twice. ``SCRIPT LOAD`` would not do: Redis before 7 writes it
    to the append-only file and to replicas, which would then know the script under a run id that
    is not theirs.
    """

    #: Run id of the server that this process talked to last.
    run_id = ""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.outcomes: list[Outcome] = [None] * len(commands)
        self.due: Sequence[int] = range(len(commands))
        self._unknown: set[Script] = set()

    def requests(self) -> list[Request]:
        """Return every command that has not run yet, as what is sent to Redis."""
        requests: list[Request] = []
        for index in self.due:
            script, keys, args = self.commands[index]
            if script in self._unknown:
                self._unknown.discard(script)
                run = "EVAL", script.source(self.run_id)
            else:
                run = "EVALSHA", script.sha(self.run_id)
            requests.append((*run, len(keys), *keys, *args))
        return requests

    def take(self, replies: Sequence[Outcome]) -> bool:
        """Keep the replies to the requests; tell whether there must be a second run."""
        lost = []
        for index, reply in zip(self.due, replies, strict=True):
            self.outcomes[index] = reply
            if isinstance(reply, redis.exceptions.NoScriptError):
                lost.append(index)
        self.due = lost
        return bool(lost)

    def prepare(self, who: Outcome) -> None:
        """Get ready for a second run on the server that has answered :data:`WHO` thus."""
        if isinstance(who, Exception):
            raise who
        found = re.search(r"run_id:(\w+)", str(who))
        # First for this batch alone: another thread may be talking to another server.
        Batch.run_id = self.run_id = found[1] if found else ""
        self._unknown = {self.commands[index].script for index in self.due}


def pack(requests: Sequence[Request]) -> list[bytes]:
    """Return requests as they go over the wire; redis-py's own packing takes three times as long.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/, arrays of bulk strings.
    """
    parts = []
    for request in requests:
        parts.append(b"*%d\r\n" % len(request))
        for value in request:
            data = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return [b"".join(parts)]
