"""The settings that say when Django code publishes, and what becomes of an error. Private."""

from __future__ import annotations

from channels_ws4redis.conf.reading import Reader, improper


class Publishing(Reader):
    """How Django code publishes. What clients of sockets publish has nothing to do with it."""

    @property
    def WS4REDIS_ON_COMMIT(self) -> bool:
        """True to have ``publish_message`` wait for the commit unless a call says otherwise.

        It is the default of the argument ``on_commit``: [publish after the
        commit](../howto/transactions.md) tells what that does. ``apublish_message`` publishes at
        once in any case, and so does what a socket's client sends.
        """
        return bool(self._flag("WS4REDIS_ON_COMMIT"))

    @property
    def WS4REDIS_ON_ERROR(self) -> str:
        """What a publish does that Redis does not take: ``"raise"`` or ``"log"``.

        With ``"log"`` a line in the log takes the place of the exception, for pages that must not
        depend on Redis. Wrong arguments raise all the same. After a commit nothing is raised in any
        case. It does not hold for what a socket's client sends: that socket is closed, and its
        client learns of it.
        """
        value: str = self._get("WS4REDIS_ON_ERROR", "raise")
        if value in ("raise", "log"):
            return value
        raise improper("WS4REDIS_ON_ERROR", value, "'raise' or 'log'")
