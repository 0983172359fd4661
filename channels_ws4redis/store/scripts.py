"""Lua scripts, and what is sent to Redis to have them run. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis


class Script:
    """A Lua script and the digest under which Redis knows it once it has run it."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        # SHA-1 is the name that EVALSHA asks for; nothing depends on its strength.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Command(NamedTuple):
    """A run of a script, as plain values, so that both kinds of client can send it."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


Reply = Any
Result = Reply | Exception

#: What is sent to Redis: the name of a command and its arguments.
Request = Sequence[str | bytes | int]


#: How a server answers that is not, or no longer, the one that runs commands: a replica, a primary
#: without its replicas, or a node of a cluster without the slot. redis-py makes classes of some,
#: and takes the code off then; which ones is a matter of its release.
_NOT_IN_CHARGE = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,  # that of MASTERDOWN is one of them
    redis.exceptions.MovedError,
)
_NOT_IN_CHARGE_CODES = {
    "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "NOREPLICAS", "UNBLOCKED"
}  # fmt: skip


def _is_elsewhere(reply: Result) -> bool:
    """Tell whether a server has refused to run a command, and another one may be in charge.

    Scripts are refused as a whole. Redis looks at this before a script runs, or at the first
    command in the script that writes; after that it lets the script write to its end.
    """
    return isinstance(reply, redis.exceptions.ResponseError) and (
        isinstance(reply, _NOT_IN_CHARGE) or str(reply).partition(" ")[0] in _NOT_IN_CHARGE_CODES
    )


class Batch:
    """Commands on their way in one exchange; the body that both runners share.

    A script that Redis does not know (restart, ``SCRIPT FLUSH``, first use) is sent in full in a
    second exchange. What a server has refused that is not in charge is sent once more on a new
    connection, which may lead to another server: behind one name the roles can change while
    connections stay open. In both cases nothing has run before, so nothing happens twice.
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands = commands
        self.outcomes: list[Result] = [None] * len(commands)
        self._due: Sequence[int] = range(len(commands))
        self._unknown: set[Script] = set()

    def requests(self) -> list[Request]:
        """Return every command that has not run yet, as what is sent to Redis."""
        requests: list[Request] = []
        for index in self._due:
            script, keys, args = self._commands[index]
            if script in self._unknown:
                self._unknown.discard(script)  # the first run of the exchange makes it known
                run = "EVAL", script.source
            else:
                run = "EVALSHA", script.sha
            requests.append((*run, len(keys), *keys, *args))
        return requests

    def take(self, replies: Sequence[Result]) -> bool:
        """Keep the replies to the requests; tell whether there must be a second exchange."""
        unknown = []
        for index, reply in zip(self._due, replies, strict=True):
            self.outcomes[index] = reply
            if isinstance(reply, redis.exceptions.NoScriptError):
                unknown.append(index)
        self._due = unknown
        self._unknown = {self._commands[index].script for index in unknown}
        return bool(unknown)

    def fail(self, error: Exception) -> None:
        """Let an exchange that has failed be the outcome of what was sent in it."""
        for index in self._due:
            self.outcomes[index] = error

    def turn_elsewhere(self) -> bool:
        """Tell whether there must be another exchange, on a new connection."""
        self._due = [index for index, reply in enumerate(self.outcomes) if _is_elsewhere(reply)]
        self._unknown = set()
        return bool(self._due)


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
