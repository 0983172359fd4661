"""Refused and closed sockets: how many, for which reasons, and as many lines in the log as help.

A stranger may be refused a thousand times a second. The log must not grow by as many lines.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

from django.core.exceptions import PermissionDenied

from channels_ws4redis.protocol.texts import reason_of, shown
from channels_ws4redis.store.loops import running_loop
from channels_ws4redis.store.process import this_process

#: Lines of one kind that are logged in so many seconds.
LINES, PERIOD = 20, 60.0

_logger = logging.getLogger(__name__)


class RefusedError(PermissionDenied):
    """The package itself refuses a socket during the handshake, with 403.

    :param why: what the log says.
    :param reason: by which word it is counted.
    """

    def __init__(self, why: str, reason: str) -> None:
        super().__init__(why)
        self.reason = reason


class BusyError(Exception):
    """The socket cannot be served at the moment; its client should come back later.

    :param why: what the log says: what there is too much of, and the setting that bounds it.
    :param reason: by which word it is counted.
    """

    def __init__(self, why: str, reason: str) -> None:
        super().__init__(why)
        self.reason = reason


def counted() -> Counter[str]:
    """Return how many sockets this process has refused, or closed for its clients' faults.

    They are counted by the reason, for whoever watches the process: ``origin``, ``path``,
    ``threads``, ``sockets`` and so on, and an exception's class where that is all there is.
    """
    return this_process().get("refusals", Counter)


def tell(
    logger: logging.Logger, level: int, what: str, path: str, why: BaseException | str
) -> None:
    """Log what has become of a socket, and count it unless the line is for debugging alone.

    :param logger: of the caller, with the filter `few_lines`.
    :param what: such as "Refused".
    :param path: that the client has asked for.
    :param why: the reason, which is counted by its ``reason``, its class, or its text.
    """
    if isinstance(why, str):
        reason = text = why
    elif isinstance(why, RefusedError | BusyError):
        reason, text = why.reason, str(why)
    else:
        reason, text = type(why).__name__, reason_of(why)
    if level >= logging.WARNING:
        counted()[reason] += 1
    line = "%s the socket %s: %s"
    logger.log(level, line, what, shown(path), text, extra={"reason": reason})


class FewLines(logging.Filter):
    """Lets a logger write some lines of a kind in a minute, and then how many were left out.

    The kind of a line is its ``reason`` if it has one, or else its text without its arguments.
    Lines below a warning are for whoever looks for something at the moment, and all are written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is to be written."""
        if record.levelno < logging.WARNING:
            return True
        name = str(getattr(record, "reason", record.msg))
        kind = self._kinds.get(name)
        if kind is None or time.monotonic() >= kind.until:
            if kind is not None:
                kind.tell()
            kind = self._kinds[name] = _Kind(name)
        return kind.allow()

    def forget(self) -> None:
        """Begin anew, as a test does."""
        self._kinds.clear()


class _Kind:
    """Lines of one kind, in the period that has begun with the first of them."""

    __slots__ = ("_left_out", "_lines", "_name", "until")

    def __init__(self, name: str) -> None:
        self._name = name
        #: When the period ends.
        self.until = time.monotonic() + PERIOD
        self._lines = self._left_out = 0

    def allow(self) -> bool:
        """Count one more line; False if it is one too many."""
        if self._lines < LINES:
            self._lines += 1
            return True
        self._left_out += 1
        loop = running_loop()
        if self._left_out == 1 and loop is not None:
            loop.call_later(self.until - time.monotonic(), self.tell)
        return False

    def tell(self) -> None:
        """Log how many lines were left out, unless that has been told."""
        left_out, self._left_out = self._left_out, 0
        if left_out:
            _logger.warning(
                "Left out %s lines within a minute, for the same reason: %s", left_out, self._name
            )


#: The one that all loggers share which tell of single sockets.
few_lines = FewLines()
