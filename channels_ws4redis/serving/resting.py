"""The subscriber of one socket, which need not be there while nobody asks for it. Private."""

from __future__ import annotations

from collections.abc import Callable, Collection

from channels_ws4redis.handshake.hooks import overrides
from channels_ws4redis.redis_store import as_text
from channels_ws4redis.serving.rights import Rights
from channels_ws4redis.store.process import get_client
from channels_ws4redis.subscriber import RedisSubscriber


class RestingSubscriber:
    """Knows what a subscriber may use, and makes it when it is needed.

    One of the package's own class does nothing by itself, and nobody else has it. It is put away
    once its socket is open: most sockets are not heard of again until they end. One of a class of
    the project's own is never put away.
    """

    __slots__ = ("_facility", "_held", "_subscriber", "granted")

    def __init__(self, subscriber: RedisSubscriber) -> None:
        #: None while it is at rest.
        self._subscriber: RedisSubscriber | None = subscriber
        #: Whose policy may say how messages are kept.
        self._facility: str | None = None
        #: What it was to use when its channels were set last; what it uses while it is at rest.
        self.granted = Rights()
        #: What the socket has while its channels are set anew; None otherwise.
        self._held: Rights | None = None

    @property
    def subscriber(self) -> RedisSubscriber:
        """Its subscriber, which does not rest any more."""
        if self._subscriber is None:
            self._subscriber = RedisSubscriber(get_client())
            self._subscriber._policy_facility = self._facility
            self._subscriber._publishers = set(self.granted.publishes)
            self._subscriber._subscription.subscribe(*self.granted.hears)
        return self._subscriber

    def _overrides(self, *names: str) -> bool:
        return self._subscriber is not None and overrides(self._subscriber, RedisSubscriber, *names)

    def rest(self) -> None:
        """Keep no subscriber of the package's own class until it is needed.

        It does nothing by itself, and what it knows is known here. Of ten thousand sockets most
        are never heard of again until they end.
        """
        if self.is_stock and self.rights == self.granted:
            self._subscriber = None

    @property
    def is_stock(self) -> bool:
        """True for the package's own class, which looks at no user to name a broadcast."""
        return self._subscriber is None or type(self._subscriber) is RedisSubscriber

    @property
    def channels(self) -> list[str]:
        """The names of the channels it listens on now."""
        if self._held is not None:
            return list(self._held.hears)
        if self._subscriber is None:
            return list(self.granted.hears)
        return list(self._subscriber._subscription.channels)

    def follow(self, on_change: Callable[[], None] | None) -> None:
        """Have a function called when the subscriber changes its channels; None ends that."""
        if self._subscriber is not None:
            self._subscriber._subscription.on_change = on_change

    @property
    def rights(self) -> Rights:
        """What the socket may use, as its subscriber has it now."""
        if self._subscriber is None:
            return self.granted
        hears = map(str, self._subscriber._subscription.channels)
        publishes = map(as_text, self._subscriber._publishers)
        return Rights(frozenset(hears), frozenset(publishes))

    def use(self, rights: Rights) -> None:
        """Have the subscriber use these rights, and no others."""
        subscriber, now = self.subscriber, self.rights
        kept = {name for name in subscriber._publishers if as_text(name) in rights.publishes}
        subscriber._publishers = kept | (rights.publishes - now.publishes)
        if gone := now.hears - rights.hears:
            subscriber._subscription.unsubscribe(*gone)
        if added := rights.hears - now.hears:
            subscriber._subscription.subscribe(*added)

    @property
    def audience(self) -> Collection[str]:
        """The names of the channels that its client publishes to."""
        if self._subscriber is None:
            return self.granted.publishes
        return self._subscriber._publishers
