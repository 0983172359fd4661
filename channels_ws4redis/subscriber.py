"""The class that decides what a socket listens on and publishes to; projects may replace it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.names import audience_arguments
from channels_ws4redis.redis_store import RedisStore
from channels_ws4redis.store.commands import Publication

__all__ = ["RedisSubscriber"]


class ChannelName(str):
    """The name of a channel; legacy had bytes here, which its users decode."""

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
        #: Called after each change once the socket is open; returns when the change has effect.
        self.on_change: Callable[[], None] | None = None
        self._source: Any = None

    @classmethod
    def of(cls, source: Any) -> Subscription:
        """Return the subscription that something stands for which legacy code has made.

        Subclasses that repeat the stock body begin with ``self._connection.pubsub()``. What they
        subscribe on it counts; the connection that redis-py may have made for it is given back.
        """
        if isinstance(source, cls):
            return source
        self = cls()
        if source is not None:
            self._source = source
            self.settle()
        return self

    def settle(self) -> None:
        """Take over what was subscribed on a ``PubSub`` of redis-py, and close that."""
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
        self._changed()

    def unsubscribe(self, *names: str | bytes) -> None:
        """Stop listening on these channels, or on all if none is named."""
        gone = _as_keys(names) if names else self.channels
        self.channels = {name: None for name in self.channels if name not in gone}
        self._changed()

    def reset(self) -> None:
        """Stop listening on all channels."""
        self.unsubscribe()

    def close(self) -> None:
        """Stop listening on all channels."""
        self.unsubscribe()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _as_keys(names: Iterable[str | bytes]) -> dict[str, None]:
    return {ChannelName(name.decode() if isinstance(name, bytes) else name): None for name in names}


class RedisSubscriber(RedisStore):
    """Decides what a socket listens on and publishes to; there is one per socket.

    Every method may be overridden in a subclass named by ``WS4REDIS_SUBSCRIBER``; overridden ones
    run in a worker thread and may use the ORM.

    :param connection: a synchronous redis-py client.
    """

    subscription_channels: ClassVar[list[str]] = [
        "subscribe-session",
        "subscribe-group",
        "subscribe-user",
        "subscribe-broadcast",
    ]
    publish_channels: ClassVar[list[str]] = [
        "publish-session",
        "publish-group",
        "publish-user",
        "publish-broadcast",
    ]

    #: What the client sent last.
    _received: bytes | None = None

    def __init__(self, connection: Any = None) -> None:
        super().__init__(connection)
        self._subscription = Subscription()

    @property
    def _subscription(self) -> Subscription:
        """What the socket listens on; a change has effect at once, also while it is open."""
        found: Subscription = self.__dict__.setdefault("_subscription", Subscription())
        return found

    @_subscription.setter
    def _subscription(self, source: Any) -> None:
        old: Subscription | None = self.__dict__.get("_subscription")
        new = self.__dict__["_subscription"] = Subscription.of(source)
        if old is not None and old is not new:
            new.on_change, old.on_change = old.on_change, None
            new._changed()

    def _publication(self, message: Any, expire: int | None, key: str) -> Publication:
        publication = super()._publication(message, expire, key)
        # A client without ``echo`` does not get back what it sent; what a hook publishes in answer
        # to that is for it, too.
        own = publication.payload == self._received
        return publication if own else publication._replace(sender="")

    def set_pubsub_channels(self, request: Any, channels: Collection[str]) -> None:
        """Set what the socket publishes to and listens on.

        :param request: the Django request of the handshake, with ``session`` and ``user``.
        :param channels: the flags it was granted, such as ``subscribe-user``.
        """
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        self._publishers = set(
            self._get_message_channels(
                request=request, facility=facility, **audience_arguments("publish", channels)
            )
        )
        subscription = Subscription()
        subscription.subscribe(
            *self._get_message_channels(
                request=request, facility=facility, **audience_arguments("subscribe", channels)
            )
        )
        self._subscription = subscription

    def send_persisted_messages(self, websocket: Any) -> None:
        """Send what is stored to a socket that has just connected.

        The stock body runs only where an override calls it: the consumer replays without leaving
        the event loop.

        :param websocket: has ``send(str | bytes)``.
        """
        for name in self._subscription.channels:
            message = self._connection.get(name)
            if message:
                websocket.send(message)

    # The misspelt name is what subclasses written before ws4redis 0.5.1 override.
    send_persited_messages = send_persisted_messages

    def release(self) -> None:
        """Called exactly once when the socket is gone."""
        if self._subscription.subscribed:
            self._subscription.unsubscribe()
            self._subscription.reset()
