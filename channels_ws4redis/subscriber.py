"""The class that decides what a socket listens on and publishes to; projects may replace it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import cache, partial, update_wrapper
from typing import Any, ClassVar

from django.utils.module_loading import import_string

from channels_ws4redis.conf import settings
from channels_ws4redis.given_clients import tell_if_elsewhere
from channels_ws4redis.handshake.hooks import Calls, overrides
from channels_ws4redis.handshake.refusals import BusyError, few_lines
from channels_ws4redis.handshake.requests import facility_in
from channels_ws4redis.handshake.subscription import Subscription
from channels_ws4redis.protocol.names import audience_arguments
from channels_ws4redis.redis_store import RedisMessage, RedisStore
from channels_ws4redis.store.commands import Publication
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.process import get_client

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

    def _publication(self, message: Any, expire: int | None, key: str) -> Publication:
        publication = super()._publication(message, expire, key)
        # A client without ``echo`` does not get back what it has sent. It does get what a hook
        # publishes in answer, which therefore has no sender.
        is_own = publication.payload == self._received
        return publication if is_own else publication._replace(sender="")

    def set_pubsub_channels(self, request: Any, channels: Collection[str]) -> None:
        """Set what the socket publishes to and listens on.

        :param request: the Django request of the handshake, with ``session`` and ``user``.
        :param channels: the flags it was granted, such as ``subscribe-user``.
        """
        facility = getattr(request, "facility", None)  # tests of legacy code make their own request
        if facility is None:
            facility = facility_in(request.path_info)
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


class SubscriberHooks:
    """Runs the methods of one socket's subscriber: overridden ones in a thread, as they may block.

    The stock methods run on the event loop, where most sockets are served without any thread.

    :param calls: run what may block for this socket.
    """

    __slots__ = ("_calls", "_subscriber", "prefix")

    def __init__(self, subscriber: RedisSubscriber, calls: Calls) -> None:
        self._subscriber = subscriber
        self._calls = calls
        #: What the names of its channels begin with; an overridden method has said so in a thread.
        self.prefix = ""

    def _overrides(self, *names: str) -> bool:
        return overrides(self._subscriber, RedisSubscriber, *names)

    @property
    def subscriber(self) -> RedisSubscriber:
        """The subscriber itself."""
        return self._subscriber

    @property
    def calls(self) -> Calls:
        """What runs that may block for the socket."""
        return self._calls

    @property
    def flags(self) -> set[str]:
        """The flags that the subscriber knows, ``echo`` left out."""
        return {*self._subscriber.subscription_channels, *self._subscriber.publish_channels}

    @property
    def publishing(self) -> set[str]:
        """Those of its flags by which clients publish."""
        return set(self._subscriber.publish_channels)

    @property
    def is_stock(self) -> bool:
        """True for the package's own class, which looks at no user to name a broadcast."""
        return type(self._subscriber) is RedisSubscriber

    @property
    def channels(self) -> list[str]:
        """The names of the channels it listens on now."""
        return list(self._subscriber._subscription.channels)

    async def set_channels(self, request: Any, flags: Collection[str], may_block: bool) -> None:
        """Set the channels that the socket listens on and publishes to.

        :param request: the Django request of the handshake.
        :param flags: those that were granted.
        :param may_block: True if looking at the request's session or user may ask the database.
        :raises Exception: whatever an overridden method raises.
        """
        if self._overrides("set_pubsub_channels", "_get_message_channels", "get_prefix"):
            run = update_wrapper(partial(self._set_channels), self._subscriber.set_pubsub_channels)
            await self._calls.run(run, request, flags)
        elif may_block:
            await self._calls.look_up(self._set_channels, request, flags)
        else:
            self._set_channels(request, flags)

    def _set_channels(self, request: Any, flags: Collection[str]) -> None:
        self._subscriber._policy_facility = getattr(request, "facility", None)
        self._subscriber.set_pubsub_channels(request, flags)
        self._subscriber._subscription.settle()
        self.prefix = self._subscriber.get_prefix()
        tell_if_elsewhere(self._subscriber)

    def follow(self, on_change: Callable[[], None] | None) -> None:
        """Have a function called when the subscriber changes its channels; None ends that."""
        self._subscriber._subscription.on_change = on_change

    @property
    def audiences(self) -> int:
        """How many channels it publishes to."""
        return len(self._subscriber._publishers)

    async def publish(self, payload: bytes, sender: str) -> None:
        """Publish what the client has sent, to the channels that its flags name.

        :param sender: the identity of the socket, which needs ``echo`` to get its own messages.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        :raises Exception: whatever an overridden method raises.
        """
        self._subscriber._received, self._subscriber._sender = payload, sender
        if self._overrides("publish_message"):
            await self._calls.run(self._subscriber.publish_message, RedisMessage(payload))
        elif self._subscriber._publishers:
            await self._subscriber.apublish_message(payload)

    @property
    def replay_hook(self) -> Callable[[Any], None] | None:
        """The overridden method that sends what is stored, under either of its names; or None."""
        for name in ("send_persisted_messages", "send_persited_messages"):
            if self._overrides(name):
                hook: Callable[[Any], None] = getattr(self._subscriber, name)
                return hook
        return None

    async def replay(self, websocket: Any) -> None:
        """Have the overridden method send what is stored; there must be one.

        :raises Exception: whatever it raises.
        """
        assert self.replay_hook is not None
        await self._calls.run(self.replay_hook, websocket)

    async def release(self) -> None:
        """Tell the subscriber that its socket is gone; to be called once."""
        self.follow(None)
        self._calls.be_patient()
        if not self._overrides("release"):
            return
        try:
            # Shielded, as a server that stops cancels whoever waits here, and the hook has to run.
            await asyncio.shield(asyncio.ensure_future(self._calls.run(self._subscriber.release)))
        except Exception:
            logger.exception("The release hook of %s failed", type(self._subscriber).__name__)


async def make_subscriber(calls: Calls) -> SubscriberHooks:
    """Make the subscriber of a socket, of the class that ``WS4REDIS_SUBSCRIBER`` names.

    :param calls: run what may block for this socket.
    :raises channels_ws4redis.handshake.refusals.BusyError: if no thread is free in time.
    :raises ImportError: if there is no such class.
    :raises TypeError: if it is no subclass of `RedisSubscriber`.
    """
    cls = subscriber_class()
    if cls.__init__ is RedisSubscriber.__init__:
        return SubscriberHooks(cls(get_client()), calls)
    made: list[RedisSubscriber] = []
    try:
        await calls.run(update_wrapper(lambda: made.append(cls(get_client())), cls, updated=()))
    except asyncio.CancelledError:  # the client has gone
        await _release_late(made, calls)
        raise
    except BusyError:
        this_loop().spawn(_release_late(made, calls), "ws4redis-release")
        raise
    return SubscriberHooks(made[0], calls)


async def _release_late(made: list[RedisSubscriber], calls: Calls) -> None:
    """Release what a thread may still make although nobody waits for it any more."""
    await calls.ended()
    for subscriber in made:
        await SubscriberHooks(subscriber, calls).release()


def subscriber_class() -> type[RedisSubscriber]:
    """Return the class that ``WS4REDIS_SUBSCRIBER`` names; raises as `make_subscriber` does.

    As in legacy it need not extend `RedisSubscriber`: one with a ``set_pubsub_channels()``, on
    `RedisStore` mostly, gets all that it does not define itself from there.
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


@cache
def _completed(cls: type) -> type[RedisSubscriber]:
    return type(cls.__name__, (cls, RedisSubscriber), {"__module__": cls.__module__})
