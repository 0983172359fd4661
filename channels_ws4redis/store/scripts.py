"""Lua scripts, and what is sent to Redis to have them run. No I/O."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import redis


class Script:
    """A Lua script and the digest under which Redis knows it once it has run it."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        # SHA-1 is the name that EVALSHA asks for; nothing depends on its strength.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


Reply = Any
Result = Reply | Exception

#: What is sent to Redis: the name of a command and its arguments.
Request = Sequence[str | bytes | int]


class Command(NamedTuple):
    """A run of a script, as plain values, so that both kinds of client can send it."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]
    #: A command of Redis that does the same on a server that is in charge. On any other one it
    #: would have no effect, and would not say so, as the script does.
    short: Request | None = None


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


def _is_unknown(reply: Result) -> bool:
    """Tell whether a server does not know a script."""
    return isinstance(reply, redis.exceptions.NoScriptError)


def _is_elsewhere(reply: Result) -> bool:
    """Tell whether a server has refused to run a command, and another one may be in charge.

    Scripts are refused as a whole. Redis looks at this before a script runs, or at the first
    command in the script that writes; after that it lets the script write to its end.
    """
    return isinstance(reply, redis.exceptions.ResponseError) and (
        isinstance(reply, _NOT_IN_CHARGE) or str(reply).partition(" ")[0] in _NOT_IN_CHARGE_CODES
    )


class Role:
    """What is known of the role of the server that one or more connections lead to.

    Behind one name the roles can change while connections stay open.
    """

    #: Seconds for which the word of a script counts.
    SECONDS = 1.0

    def __init__(self) -> None:
        #: When the script was sent that was the last one to find the server in charge.
        self._known = -math.inf

    @property
    def is_in_charge(self) -> bool:
        """True while commands may be sent in their short form; if not, their scripts ask."""
        return time.monotonic() - self._known < self.SECONDS

    def confirm(self, sent: float) -> None:
        """Note that a script has found the server in charge.

        :param sent: when it was sent, by `time.monotonic`.
        """
        self._known = sent

    def forget(self) -> None:
        """Have the scripts asked again, as new connections may lead to another server."""
        self._known = -math.inf


class Batch:
    """Commands on their way, in as few exchanges as it takes; the body that both runners share.

    A script that Redis does not know (restart, ``SCRIPT FLUSH``, first use) is sent in full in a
    second exchange. What a server has refused that is not in charge is sent once more on a new
    connection, which may lead to another server. In both cases nothing has run before, so nothing
    happens twice::

        while batch.due:
            if batch.take(exchange(batch.requests())):
                ...  # the next exchange needs a new connection

    :param role: that of the server; if it is known to be in charge, the first exchange has the
        short forms of commands.
    """

    def __init__(self, commands: Sequence[Command], role: Role | None = None) -> None:
        self._commands = commands
        self._role = role or Role()
        self._short = self._role.is_in_charge
        #: When the last exchange began, by `time.monotonic`.
        self._sent = 0.0
        self.outcomes: list[Result] = [None] * len(commands)
        #: What is to be sent in the next exchange, by its place among the commands.
        self.due: Sequence[int] = range(len(commands))
        #: Scripts that this server does not know; empty until it has said so.
        self._unknown: set[Script] = set()
        #: True while the server is the last one to be asked.
        self._is_last = False

    def requests(self) -> list[Request]:
        """Return every command that has not run yet, as what is sent to Redis."""
        self._sent = time.monotonic()
        requests: list[Request] = []
        in_full = set(self._unknown)
        for index in self.due:
            script, keys, args, short = self._commands[index]
            if self._short and short is not None:
                requests.append(short)
                continue
            if script in in_full:
                in_full.discard(script)  # the first run of the exchange makes it known
                run = "EVAL", script.source
            else:
                run = "EVALSHA", script.sha
            requests.append((*run, len(keys), *keys, *args))
        return requests

    def take(self, replies: Sequence[Result]) -> bool:
        """Keep the replies to the requests.

        :returns: True if a server has refused that is not in charge; its connections are to be
            given up, whether or not there is another exchange.
        """
        for index, reply in zip(self.due, replies, strict=True):
            self.outcomes[index] = reply
        self._note_role()
        self._short = False
        if not any(isinstance(outcome, Exception) for outcome in self.outcomes):
            self.due = []
            return False
        unknown = self._all(_is_unknown) if not self._unknown else []
        if unknown:
            self.due = unknown
            self._unknown = {self._commands[index].script for index in unknown}
            return False
        refused = self._all(_is_elsewhere)
        self.due = [] if self._is_last else refused
        self._unknown, self._is_last = set(), True
        return bool(refused)

    def _note_role(self) -> None:
        """Keep what the scripts have found out that ask whether the server is in charge."""
        said = (self.outcomes[index] for index in self.due if self._commands[index].short)
        if not self._short and not all(isinstance(each, Exception) for each in said):
            self._role.confirm(self._sent)

    def _all(self, is_so: Callable[[Result], bool]) -> list[int]:
        return [index for index, reply in enumerate(self.outcomes) if is_so(reply)]

    def fail(self, error: Exception) -> None:
        """Let an exchange that has failed be the outcome of what was sent in it."""
        for index in self.due:
            self.outcomes[index] = error


def pack(requests: Sequence[Request]) -> list[bytes]:
    """Return requests as they go over the wire; redis-py's own packing takes three times as long.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/, arrays of bulk strings.
    """
    parts = []
    for request in requests:
        parts.append(b"*%d\r\n" % len(request))
        parts += [
            b"$%d\r\n%b\r\n" % (len(value), value) if value.__class__ is bytes else _pack(value)
            for value in request
        ]
    return [b"".join(parts)]


# Most of what a script is given is given to it again and again.
@lru_cache(maxsize=1024, typed=True)
def _pack(value: str | bytes | int) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
