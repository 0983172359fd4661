"""What becomes of a publish that fails: an exception, or a line in the log. Private."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.refusals import few_lines
from channels_ws4redis.protocol.texts import reason_of, shown

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

#: What Redis does wrong, or the way to it. An argument that is wrong is no such thing.
OF_REDIS = (redis.exceptions.RedisError, OSError)

Errors = tuple[type[Exception], ...]


def forgiven(*, committed: bool) -> Errors:
    """Return the errors of a publish in Django code that must not be raised.

    :param committed: whether what the message tells has been committed meanwhile. Then nothing
        may look as if it had failed.
    """
    if committed:
        return (Exception,)
    return OF_REDIS if settings.WS4REDIS_ON_ERROR == "log" else ()


@contextmanager
def logging_errors(errors: Errors, channels: Sequence[str]) -> Iterator[None]:
    """Write some errors of a publish into the log, in place of raising them.

    :param channels: those that are published to.
    """
    try:
        yield
    except errors as error:
        logger.error(
            "The message on %s is not published: %s",
            shown(" ".join(channels)),
            reason_of(error),
            exc_info=not isinstance(error, OF_REDIS),
        )
