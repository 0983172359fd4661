"""Orders: what processes tell each other on the control channel. No I/O.

An order names nobody. It says by *marks* whom it concerns: a mark is a digest of one thing that is
known of a socket, such as the name of its user. A process keeps the marks of each socket, eight
bytes for each thing that it knows. So no session key is written to Redis for this, and finding
those whom an order concerns is comparing bytes.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

#: The form of orders. A process that gets one of another form looks at all its sockets again.
VERSION: Final = 1

#: Orders that Redis keeps, and the seconds for which it does. A process that was cut off for longer
#: than that looks at all its sockets again.
HISTORY, EXPIRE = 1000, 3600

MARK_BYTES: Final = 8


class Trait(enum.Enum):
    """One thing that may be known of a socket."""

    USER = "user"
    #: The primary key of the user, which stays when the user is renamed.
    ACCOUNT = "account"
    SESSION = "session"
    #: Of Django's auth groups.
    GROUP = "group"
    FACILITY = "facility"


class Action(enum.Enum):
    """What becomes of the sockets that an order concerns."""

    DISCONNECT = "disconnect"
    #: They leave the channels of the auth groups that the order names.
    UNSUBSCRIBE = "unsubscribe"
    #: It is found out again who they are and what they may hear.
    REFRESH = "refresh"


class OrderError(ValueError):
    """What stands on the control channel is no order, or one of another version."""


def mark(trait: Trait, text: str) -> bytes:
    """Return the mark of one thing that is known of a socket."""
    named = f"{trait.value}:{text}".encode(errors="surrogatepass")
    return hashlib.blake2s(named, digest_size=MARK_BYTES).digest()


def split(marks: bytes) -> list[bytes]:
    """Return the marks of a socket one by one."""
    return [marks[first : first + MARK_BYTES] for first in range(0, len(marks), MARK_BYTES)]


@dataclass(frozen=True, slots=True)
class Order:
    """What a process does with some of its sockets."""

    action: Action
    #: It concerns a socket that has a mark of each of these sets; all sockets, if there are none.
    selectors: tuple[frozenset[bytes], ...] = ()
    #: With which a socket is closed that has to be, and what its client is told.
    code: int = 0
    reason: str = ""

    def concerns(self, marks: bytes) -> bool:
        """Tell whether a socket with these marks is meant."""
        return all(not selector.isdisjoint(split(marks)) for selector in self.selectors)

    def names(self, mark: bytes) -> bool:
        """Tell whether a mark is one of those by which the order chooses."""
        return any(mark in selector for selector in self.selectors)

    def encode(self) -> bytes:
        """Return the order as it is published."""
        of = [sorted(each.hex() for each in selector) for selector in self.selectors]
        body = {"v": VERSION, "do": self.action.value, "of": of}
        return json.dumps(body | {"code": self.code, "reason": self.reason}).encode()


#: For a process that has missed an order, or has not understood it.
LOOK_AT_ALL: Final = Order(Action.REFRESH)


def parse_order(payload: bytes) -> Order:
    """Return a published order.

    :raises OrderError: if it is none, or of another version.
    """
    try:
        body: Any = json.loads(payload)
        version = body["v"]
        if version != VERSION:
            raise OrderError(f"it has the version {version!r}, and this process knows {VERSION}")
        selectors = tuple(_parse_selector(each) for each in body["of"])
        return Order(Action(body["do"]), selectors, int(body["code"]), str(body["reason"]))
    except OrderError:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise OrderError(f"{type(error).__name__}: {error}") from error


def _parse_selector(marks: Iterable[str]) -> frozenset[bytes]:
    return frozenset(bytes.fromhex(each) for each in marks)
