"""What becomes of a publish that fails: an exception, or a line in the log. Private."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.refusals import few_lines
from channels_ws4redis.protocol.texts import reason_of, shown
from channels_ws4redis.store.clients import OF_REDIS

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)


def forgiven(*, committed: bool, of_socket: bool) -> tuple[type[Exception], ...]:
    """Return the errors of a publish that are to be logged by `tell`, and not to be raised.

    :param committed: whether what the message tells has been committed meanwhile. Then nothing
        may look as if it had failed.
    :param of_socket: whether a client of a socket is to learn of them.
    """
    if committed:
        return (Exception,)
    return OF_REDIS if settings.WS4REDIS_ON_ERROR == "log" and not of_socket else ()


def tell(error: Exception, channels: Sequence[str]) -> None:
    """Log that a message is not published, and why."""
    logger.error(
        "The message on %s is not published: %s",
        shown(" ".join(channels)),
        reason_of(error),
        exc_info=None if isinstance(error, OF_REDIS) else error,
    )
