"""The class that decides what a socket listens on and publishes to; projects may replace it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, ClassVar

from django.utils.module_loading import import_string

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.paths import facility_of
from channels_ws4redis.handshake.refusals import few_lines
from channels_ws4redis.handshake.subscription import Subscription
from channels_ws4redis.protocol.names import audience_arguments
from channels_ws4redis.protocol.texts import meant_by
from channels_ws4redis.redis_store import RedisStore
from channels_ws4redis.store.commands import Publication

__all__ = ["RedisSubscriber"]

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)


class RedisSubscriber(RedisStore):
    """Decides what a socket listens on and publishes to; there is one per socket.

    Every method may be overridden in a subclass, which ``WS4REDIS_SUBSCRIBER`` names. Overridden
    methods run in a worker thread and may use the ORM.

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

    _is_of_socket = True

    #: What the client has sent last.
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
            new.changed()

    def _publication(
        self, message: Any, expire: int | None, key: str, keep: bool | None, version: int | None
    ) -> Publication:
        publication = super()._publication(message, expire, key, keep, version)
        # A client without ``echo`` does not get back what it has sent. It does get what a hook
        # publishes in answer, which therefore has no sender.
        is_own = publication.payload == self._received
        return publication if is_own else publication._replace(sender="")

    def set_pubsub_channels(self, request: Any, channels: Collection[str]) -> None:
        """Set what the socket publishes to and listens on.

        :param request: the Django request of the handshake, with ``session`` and ``user``.
        :param channels: the flags it was granted, such as ``subscribe-user``.
        """
        facility = getattr(request, "facility", None)
        if facility is None:  # tests of legacy code make their own request
            facility = facility_of(request)
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

        The stock body runs only if an override calls it: otherwise the package replays what is
        stored without leaving the event loop.

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


def subscriber_class() -> type[RedisSubscriber]:
    """Return the class that ``WS4REDIS_SUBSCRIBER`` names.

    As in legacy it need not extend `RedisSubscriber`: one with a ``set_pubsub_channels()``, on
    `RedisStore` mostly, gets all that it does not define itself from there.

    :raises ImportError: if there is no such class.
    :raises TypeError: if it has no ``set_pubsub_channels()``.
    """
    configured = settings.WS4REDIS_SUBSCRIBER
    found = import_string(configured) if isinstance(configured, str) else configured
    if not (isinstance(found, type) and hasattr(found, "set_pubsub_channels")):
        raise TypeError(
            f"WS4REDIS_SUBSCRIBER {configured!r} is no subclass of RedisSubscriber, nor a class "
            "with its methods"
        )
    if issubclass(found, RedisSubscriber):
        return found
    return _completed(found)  # type: ignore[arg-type] # mypy asks instances of it for a hash


def as_flags(flags: str | Iterable[str]) -> list[str]:
    """Return the flags of a socket that a page names.

    :param flags: a text with commas or spaces between them, or several.
    :raises ValueError: for one that the project's subscriber does not know.
    """
    wanted = flags.replace(",", " ").split() if isinstance(flags, str) else list(flags)
    subscriber = subscriber_class()
    known = ["echo", *subscriber.subscription_channels, *subscriber.publish_channels]
    for flag in wanted:
        if flag not in known:
            full = f"subscribe-{flag}"  # rather than publish-…, which allows more
            meant = full if full in known else meant_by(str(flag), known)
            raise ValueError(
                f"{flag!r} is no flag of a socket; "
                + (f"did you mean {meant!r}? " if meant else "")
                + f"There are {', '.join(sorted(known))}."
            )
    return wanted


@cache
def _completed(cls: type) -> type[RedisSubscriber]:
    return type(cls.__name__, (cls, RedisSubscriber), {"__module__": cls.__module__})
