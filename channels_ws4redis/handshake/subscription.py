"""The set of channels a socket listens on, in the form that subscribers of legacy know."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class ChannelName(str):
    """The name of a channel; legacy has bytes here, which its users decode."""

    __slots__ = ()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the name as it is."""
        return str(self)


class Subscription:
    """The set of channels a socket listens on.

    It has the few methods of redis-py's ``PubSub`` that subclasses of the legacy subscriber use.
    """

    def __init__(self) -> None:
        #: Channel names as keys, in the order in which they were subscribed.
        self.channels: dict[str, None] = {}
        #: Called after each change while the socket is open; returns when the change has effect.
        self.on_change: Callable[[], None] | None = None
        self._source: Any = None

    @classmethod
    def of(cls, source: Any) -> Subscription:
        """Return the subscription that stands for an object which legacy code has made.

        Subclasses that repeat the stock body begin with ``self._connection.pubsub()``. The channels
        subscribed on that ``PubSub`` count. The connection that redis-py may have made for it is
        given back.

        :param source: a subscription, a ``PubSub`` of redis-py, or None for no channel.
        :raises NotImplementedError: if patterns were subscribed.
        """
        if isinstance(source, cls):
            return source
        self = cls()
        if source is not None:
            self._source = source
            self.settle()
        return self

    def settle(self) -> None:
        """Take over what was subscribed on a ``PubSub`` of redis-py, and close the ``PubSub``.

        :raises NotImplementedError: if patterns were subscribed.
        """
        if self._source is None:
            return
        if patterns := list(getattr(self._source, "patterns", ())):
            raise NotImplementedError(
                f"psubscribe{tuple(patterns)!r}: a socket listens on channels, not on patterns; "
                "subscribe to each channel by its name."
            )
        if self._source.channels:
            self.channels = self.channels | _as_keys(self._source.channels)
            self._source.close()

    @property
    def subscribed(self) -> bool:
        """True while there is at least one channel."""
        return bool(self.channels)

    def subscribe(self, *names: str | bytes) -> None:
        """Listen on further channels."""
        self.channels = self.channels | _as_keys(names)
        self.changed()

    def unsubscribe(self, *names: str | bytes) -> None:
        """Stop listening on these channels, or on all if none is named."""
        gone = _as_keys(names) if names else self.channels
        self.channels = {name: None for name in self.channels if name not in gone}
        self.changed()

    def reset(self) -> None:
        """Stop listening on all channels."""
        self.unsubscribe()

    def close(self) -> None:
        """Stop listening on all channels."""
        self.unsubscribe()

    def changed(self) -> None:
        """Have the change take effect, if the socket is open."""
        if self.on_change is not None:
            self.on_change()


def _as_keys(names: Iterable[str | bytes]) -> dict[str, None]:
    return {ChannelName(name.decode() if isinstance(name, bytes) else name): None for name in names}
