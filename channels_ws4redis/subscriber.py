"""The class that decides what a socket listens on and publishes to; projects may replace it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from channels_ws4redis.audiences import SELF
from channels_ws4redis.conf import settings
from channels_ws4redis.redis_store import RedisStore

__all__ = ["RedisSubscriber"]


class Subscription:
    """The set of channels a socket listens on.

    It has the few methods of redis-py's ``PubSub`` that subclasses of the legacy subscriber use.
    """

    def __init__(self) -> None:
        #: Channel names as keys, in the order in which they were subscribed.
        self.channels: dict[str, None] = {}

    @property
    def subscribed(self) -> bool:
        """True while there is at least one channel."""
        return bool(self.channels)

    def subscribe(self, *names: str | bytes) -> None:
        """Listen on further channels."""
        self.channels |= dict.fromkeys(_as_text(name) for name in names)

    def unsubscribe(self, *names: str | bytes) -> None:
        """Stop listening on these channels, or on all if none is named."""
        if not names:
            self.channels = {}
        for name in names:
            self.channels.pop(_as_text(name), None)

    def reset(self) -> None:
        """Stop listening on all channels."""
        self.unsubscribe()


def _as_text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


class RedisSubscriber(RedisStore):
    """Decides what a socket listens on and publishes to; there is one per socket.

    Every method may be overridden in a subclass named by ``WS4REDIS_SUBSCRIBER``; overridden ones
    run in a worker thread and may use the ORM.
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

    def __init__(self, connection: Any = None) -> None:
        super().__init__(connection)
        self._subscription = Subscription()

    def set_pubsub_channels(self, request: Any, channels: Collection[str]) -> None:
        """Set what the socket publishes to and listens on.

        :param request: the Django request of the handshake, with ``session`` and ``user``.
        :param channels: the flags it was granted, such as ``subscribe-user``.
        """
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        self._publishers = set(
            self._get_message_channels(
                request=request, facility=facility, **_audiences("publish", channels)
            )
        )
        self._subscription = Subscription()
        for name in self._get_message_channels(
            request=request, facility=facility, **_audiences("subscribe", channels)
        ):
            self._subscription.subscribe(name)

    def send_persisted_messages(self, websocket: Any) -> None:
        """Send what is stored to a socket that has just connected.

        The stock body is never called: the consumer replays without leaving the event loop.

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


def _audiences(verb: str, channels: Collection[str]) -> dict[str, Any]:
    return {
        "users": [SELF] if f"{verb}-user" in channels else [],
        "groups": [SELF] if f"{verb}-group" in channels else [],
        "sessions": [SELF] if f"{verb}-session" in channels else [],
        "broadcast": f"{verb}-broadcast" in channels,
    }
