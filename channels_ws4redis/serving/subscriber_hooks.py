"""The methods of one socket's subscriber, run where they may block. Private."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial, update_wrapper
from typing import Any

from channels_ws4redis.fanout.ears import Ear
from channels_ws4redis.fanout.held import Entry
from channels_ws4redis.handshake import remarks
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.refusals import few_lines
from channels_ws4redis.handshake.subscription import Subscription
from channels_ws4redis.publish.given_clients import tell_if_elsewhere
from channels_ws4redis.redis_store import RedisMessage
from channels_ws4redis.serving.resting import RestingSubscriber
from channels_ws4redis.serving.rights import shared
from channels_ws4redis.subscriber import RedisSubscriber

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)


class SubscriberHooks(RestingSubscriber):
    """Runs the methods of one socket's subscriber: overridden ones in a thread, as they may block.

    The stock methods run on the event loop, where most sockets are served without any thread.

    :param calls: run what may block for this socket.
    """

    __slots__ = (
        "_ear",
        "calls",
        "is_setting",
        "keeps_added",
        "prefix",
    )

    def __init__(self, subscriber: RedisSubscriber, calls: Calls) -> None:
        super().__init__(subscriber)
        self.calls = calls
        #: Listens for the socket while an overridden method runs that subscribes; None if none is.
        self._ear: Ear | None = None
        #: What the names of its channels begin with; an overridden method has said so in a thread.
        self.prefix = ""
        #: Whether an open socket that is looked at again keeps what its subscriber has added by
        #: itself, as code of the project does at any time. None until it is looked at.
        self.keeps_added: bool | None = None
        #: True while the channels are being set, also if nobody waits for it any more.
        self.is_setting = False

    @property
    def flags(self) -> set[str]:
        """The flags that the subscriber knows, ``echo`` left out."""
        return {*self.subscriber.subscription_channels, *self.subscriber.publish_channels}

    @property
    def publishing(self) -> set[str]:
        """Those of its flags by which clients publish."""
        return set(self.subscriber.publish_channels)

    def listen_early(self, layer: Any) -> None:
        """Let the socket hear what a hook subscribes to from that moment on, as legacy does.

        For a socket without positions, which `heard` is asked for once it goes live.

        :param layer: the channel layer that the socket is going to listen on.
        """
        if self._overrides("set_pubsub_channels"):
            self._ear = Ear(layer)

    def heard(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return what the socket gets that goes live now, with what it has heard early.

        :param entries: what its readings have found.
        """
        ear, self._ear = self._ear, None
        return entries if ear is None else ear.hand_over(entries)

    async def set_channels(self, request: Any, flags: Collection[str], may_block: bool) -> None:
        """Set the channels that the socket listens on and publishes to.

        :param request: the Django request of the handshake.
        :param flags: those that were granted.
        :param may_block: True if looking at the request's session or user may ask the database.
        :raises Exception: whatever an overridden method raises.
        """
        if self._overrides("set_pubsub_channels", "_get_message_channels", "get_prefix"):
            run = update_wrapper(partial(self._set_channels), self.subscriber.set_pubsub_channels)
            await self.calls.run(run, request, flags)
        elif may_block:
            await self.calls.look_up(self._set_channels, request, flags)
        else:
            self._set_channels(request, flags)

    def _set_channels(self, request: Any, flags: Collection[str]) -> None:
        self.is_setting = True
        try:
            if self.keeps_added is None:
                self._set(request, flags)
            elif not self.calls.failed:  # or what is granted says nothing
                self._set_anew(request, flags, self.keeps_added)
        finally:
            self.is_setting = False

    def _set_anew(self, request: Any, flags: Collection[str], keeps_added: bool) -> None:
        """Set the channels of an open socket, which gets none by it; if that fails, all stay.

        They are set from nothing, or a method that returns early would leave all as it was. What
        the subscriber changes by itself is not followed any more, until `follow` is called again.
        """
        before = kept = self._held = self.rights
        added = before.beyond(self.granted)
        # A copy: a method may set the very same set each time, which is not to leave it alone.
        publishers = self.subscriber._publishers = set(self.subscriber._publishers)
        self.follow(None)
        self.subscriber._subscription = Subscription()
        try:
            self._set(request, flags)
            if self.subscriber._publishers is publishers:  # with which the client goes on meanwhile
                self.granted = self.granted._replace(publishes=frozenset())
            kept = self.granted.within(before)
            if keeps_added:
                kept = kept.beside(added)
        finally:
            self.use(kept)
            self._held = None

    def _set(self, request: Any, flags: Collection[str]) -> None:
        self._facility = getattr(request, "facility", None)
        self.subscriber._policy_facility = self._facility
        ear = self._ear
        if ear is not None:
            self.follow(lambda: ear.listen(self.channels))
        self.subscriber.set_pubsub_channels(request, flags)
        self.follow(None)
        self.subscriber._subscription.settle()
        self.prefix = self.subscriber.get_prefix()
        tell_if_elsewhere(self.subscriber)
        self.granted = shared(self.rights)

    async def publish(self, payload: bytes, sender: str) -> None:
        """Publish what the client has sent, to the channels that its flags name.

        :param sender: the identity of the socket, which needs ``echo`` to get its own messages.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        :raises Exception: whatever an overridden method raises.
        """
        is_stock = not self._overrides("publish_message")
        if is_stock and not self.audience:
            remarks.tell_of_unpublished(self.calls.scope["path"])
            return
        subscriber = self.subscriber
        subscriber._received, subscriber._sender = payload, sender
        if is_stock:
            await subscriber.apublish_message(payload)
        else:
            await self.calls.run(subscriber.publish_message, RedisMessage(payload))

    @property
    def replay_hook(self) -> Callable[[Any], None] | None:
        """The overridden method that sends what is stored, under either of its names; or None."""
        for name in ("send_persisted_messages", "send_persited_messages"):
            if self._overrides(name):
                hook: Callable[[Any], None] = getattr(self.subscriber, name)
                return hook
        return None

    async def replay(self, websocket: Any) -> None:
        """Have the overridden method send what is stored; there must be one.

        :raises Exception: whatever it raises.
        """
        assert self.replay_hook is not None
        await self.calls.run(self.replay_hook, websocket)

    async def release(self) -> None:
        """Tell the subscriber that its socket is gone; to be called once."""
        self.follow(None)
        if self._ear is not None:
            self._ear.stop()
        self.calls.be_patient()
        if not self._overrides("release"):
            return
        try:
            # Shielded, as a server that stops cancels whoever waits here, and the hook has to run.
            await asyncio.shield(asyncio.ensure_future(self.calls.run(self.subscriber.release)))
        except Exception:
            logger.exception("The release hook of %s failed", type(self.subscriber).__name__)
