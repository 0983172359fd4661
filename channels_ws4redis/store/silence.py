"""A Redis that does not answer: its error, and for how long nobody waits for it again. No I/O."""

from __future__ import annotations

import threading
import time

import redis

#: Seconds between two looks at a Redis that does not answer. In between nobody waits for it.
PAUSE = 3.0

#: What Redis is asked then. It is a script, as all that publishes and reads is one: while a replica
#: takes over, Redis may have scripts wait (``CLIENT PAUSE … WRITE``), and answers a PING.
QUESTION = "EVAL", "return 1", 0

#: Seconds for such a look: Redis answers that in a moment or not at all.
LOOK = 1.0


class NoAnswerError(redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
    """Redis has not answered in time.

    For redis-py a timeout is no ``ConnectionError``. Code that wants to go on without Redis often
    catches only one of the two.
    """


class Silence:
    """What is known of a Redis that has not answered. May be used by several threads.

    Whoever has waited in vain lets it begin. From then on others are turned away at once. After
    every pause one of them looks whether Redis is back, for all.
    """

    __slots__ = ("_lock", "_next_look", "_since")

    def __init__(self) -> None:
        #: By `time.monotonic`, when that was asked which has not been answered; None while Redis
        #: answers.
        self._since: float | None = None
        #: When somebody may look again.
        self._next_look = 0.0
        self._lock = threading.Lock()

    @property
    def lasts(self) -> bool:
        """True from the first answer that did not come up to the next one that does."""
        return self._since is not None

    def begin(self, asked: float) -> None:
        """Note that Redis has not answered, or still does not.

        :param asked: when it was asked, by `time.monotonic`.
        """
        with self._lock:
            self._next_look = time.monotonic() + PAUSE
            if self._since is None:
                self._since = asked

    def end(self) -> None:
        """Note that Redis answers, or fails in another way, which takes no time."""
        self._since = None

    def take_look(self) -> bool:
        """Tell whether the caller is the one who looks now; nobody else is until the next pause."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_look:
                return False
            self._next_look = now + LOOK + PAUSE
            return True

    def error(self) -> NoAnswerError:
        """Return the error of those who are turned away."""
        seconds = time.monotonic() - (self._since or time.monotonic())
        return NoAnswerError(f"Redis has not answered for {seconds:.1f} s; it was not asked again.")


def shortened(kwargs: dict[str, object]) -> dict[str, object]:
    """Return a connection's arguments with the time-outs of a look."""
    short: dict[str, object] = {}
    for name in ("socket_connect_timeout", "socket_timeout"):
        usual = kwargs.get(name)
        short[name] = min(usual, LOOK) if isinstance(usual, int | float) else LOOK
    return kwargs | short
