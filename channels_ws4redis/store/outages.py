"""What the log says of something that may be away: one line when it goes, one when it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from channels_ws4redis.protocol.texts import reason_of

logger = logging.getLogger(__name__)

#: Seconds within which another attempt has failed or succeeded, if anybody wants the thing: the
#: pause before an attempt, and what it takes with the time-outs that hold by default.
ATTEMPT = 10.0


class Outage:
    """Writes one line when something goes and one when it is back, however often it is tried.

    The second has the seconds in between. Where nobody has tried for a while, as nobody wanted it,
    these are the seconds up to the last attempt, and it may have been back since then.

    May be used by several threads.

    :param what: is away, with its address. It is asked for when a line is written.
    """

    __slots__ = ("_last", "_since", "_what")

    def __init__(self, what: Callable[[], str]) -> None:
        self._what = what
        #: By `time.monotonic`, when the first attempt failed; None while nothing is wrong.
        self._since: float | None = None
        #: When the last one failed.
        self._last = 0.0

    def begin(self, why: BaseException | str, trace: BaseException | None = None) -> None:
        """Note that it does not work, or still not.

        :param why: the cause.
        :param trace: the same as an error that is not expected, whose traceback is logged.
        """
        self._last = time.monotonic()
        if self._since is not None:
            return
        self._since = self._last
        level = logging.WARNING if trace is None else logging.ERROR
        cause = reason_of(why).rstrip(".")
        logger.log(level, "%s: lost the %s", cause, self._what(), exc_info=trace)

    def end(self) -> None:
        """Note that it works."""
        since, self._since = self._since, None
        if since is None:
            return
        now = time.monotonic()
        if now - self._last < ATTEMPT:
            away = f"{now - since:.1f}"
        else:
            away = f"at least {self._last - since:.1f}"
        logger.warning("The %s is back after %s s", self._what(), away)


def server_address(pool: Any) -> str:
    """Return host and port to which a connection pool of redis-py leads, without a password.

    That of a Sentinel's pool is the primary, or the name of the service until one is known.
    """
    arguments = pool.connection_kwargs
    service = getattr(pool, "service_name", None)
    if service is not None:
        primary = getattr(pool, "master_address", None)
        return f"{primary[0]}:{primary[1]} ({service})" if primary else str(service)
    if "path" in arguments:
        return str(arguments["path"])
    return f"{arguments.get('host') or 'localhost'}:{arguments.get('port', 6379)}"
