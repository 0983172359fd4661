"""The package's own channel layer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.store.commands import events_channel
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.pubsub import Handler, Listener, Message
from channels_ws4redis.store.queues import Limits, Queues, pack, require_message
from channels_ws4redis.store.scripts import Command, Script
from channels_ws4redis.store.topics import Kind

__all__ = ["RedisChannelLayer"]

#: What the names of the channels of fan-outs begin with.
FANOUT_PREFIX = "ws4redis."

_PUBLISH = Script("return redis.call('PUBLISH', ARGV[1], ARGV[2])")


class RedisChannelLayer(BaseChannelLayer):  # type: ignore[misc] # Channels has no types
    """A channel layer on Redis that takes group names literally.

    A channel that `new_channel` has made belongs to one process, which hears it by pub/sub; its
    name has a ``!`` in it. Every other channel is a named one: a queue in Redis, whose messages
    wait for whoever receives there, ``manage.py runworker`` for instance.

    :param hosts: a URL or a dict of redis-py's arguments; by default ``WS4REDIS_CONNECTION``.
    :param prefix: put before the names of keys and pub/sub channels.
    :param expiry: seconds for which a message waits on a named channel.
    :param group_expiry: seconds for which a named channel is in a group.
    :param capacity: messages that may wait on one channel before further ones are dropped.
    :param channel_capacity: other capacities, by pattern of the channel's name.
    :raises django.core.exceptions.ImproperlyConfigured: if one of the numbers is none, or if there
        are several hosts.

    Unlike the layers of channels_redis it says when its link to Redis was lost, bounds its queues,
    and joining a group is done once Redis has confirmed it.
    """

    extensions = ["groups", "flush"]  # noqa: RUF012 # an attribute of the layer specification
    MAX_NAME_LENGTH = 65536

    def __init__(
        self,
        hosts: Any = None,
        prefix: str = "",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 10_000,
        channel_capacity: dict[Any, int] | None = None,
    ) -> None:
        numbers = {"expiry": expiry, "group_expiry": group_expiry, "capacity": capacity}
        for name, value in numbers.items():
            if not isinstance(value, int | float) or value <= 0:
                raise ImproperlyConfigured(
                    f"{name!r} of the channel layer is {value!r}; it must be a number above 0."
                )
        super().__init__(expiry=expiry, capacity=capacity)
        self.group_expiry = group_expiry
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.prefix = prefix
        self._connection = connection_arguments(hosts)

    @property
    def stores(self) -> bool:
        """True if one script can store a message and send it: the layer's Redis is the store's."""
        return self._connection is None

    def _heard_in(self, group: str, is_fanout: bool) -> dict[str, Kind]:
        """Return the Redis pub/sub channels that a channel in a group listens on."""
        if is_fanout and self.stores:
            # The second has no prefix of the layer's: legacy programs publish on it.
            return {events_channel(group, self.prefix): Kind.EVENT, group: Kind.PAYLOAD}
        return {self._pubsub_channel_of_group(group): Kind.MESSAGE}

    def _pubsub_channel_of_group(self, group: str) -> str:
        """Return the name of the Redis pub/sub channel on which consumers send to a group."""
        return f"{self.prefix}asgi.group:{group}"

    def _pubsub_channel_of(self, channel: str) -> str:
        """Return the name of the Redis pub/sub channel on which consumers send to a channel."""
        return f"{self.prefix}asgi.channel:{channel}"

    def require_valid_group_name(self, name: str) -> bool:
        """Take any non-empty text.

        :raises TypeError: for anything else, as other layers do.
        """
        return _require_text(name, "Group", self.MAX_NAME_LENGTH)

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Take any non-empty text.

        :raises TypeError: for anything else, as other layers do.
        """
        return _require_text(name, "Channel", self.MAX_NAME_LENGTH)

    @property
    def _listener(self) -> Listener:
        """The part of the layer that belongs to the running event loop."""
        return this_loop().get(self, lambda: Listener(self._connection, self.get_capacity))

    @property
    def _queues(self) -> Queues:
        """The named channels, as the running event loop uses them."""
        limits = Limits(self.expiry, self.group_expiry, self.get_capacity)
        make = partial(Queues, self._listener, self.prefix, limits)
        return this_loop().get((self, Queues), make)

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a new channel of this process."""
        listener = self._listener
        name = _new_name(prefix)
        listener.open(name)
        try:
            # Whoever is told the name may use it at once, in any process.
            await listener.subscribe(name, {self._pubsub_channel_of(name): Kind.MESSAGE})
        except BaseException:
            listener.discard_channel(name)  # nobody else knows it
            raise
        return name

    async def new_fanout(self, receiver: Handler) -> str:
        """Return the name of a new channel for a fan-out of this process.

        It has no queue: ``receiver`` is called with each message when it is read from Redis, also
        with those that foreign programs publish, and with a `RELINKED_TYPE` after the link was
        lost. If it is too slow messages wait, and with a `MISSED_TYPE` it learns of which group too
        many did.
        """
        listener = self._listener
        name = _new_name(FANOUT_PREFIX)
        listener.receivers[name] = receiver
        return name

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel.

        :raises channels.exceptions.ChannelFull: if too many messages wait there, as far as this
            process can know.
        :raises TypeError: if the message cannot be serialised.
        :raises redis.exceptions.RedisError: if Redis cannot be reached, or refuses.
        """
        self.require_valid_channel_name(channel)
        require_message(message)
        if _is_named(channel):
            await self._queues.put(channel, pack(message))
            return
        listener = self._listener
        if not listener.put(channel, message):
            name = self._pubsub_channel_of(channel)
            await listener.run(Command(_PUBLISH, [], [name, pack(message)]))

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel, waiting for it.

        Of those who receive on a named channel, in whatever process, one gets each message.
        """
        self.require_valid_channel_name(channel, receive=True)
        if _is_named(channel):
            return await self._queues.receive(channel)
        listener = self._listener
        queue = listener.open(channel)
        pubsub_channel = self._pubsub_channel_of(channel)
        if not listener.hears(pubsub_channel, channel):
            await listener.subscribe(channel, {pubsub_channel: Kind.MESSAGE})
        try:
            return await queue.get()
        except asyncio.CancelledError:
            # Channels has no other way to say that a consumer is gone.
            listener.discard_channel(channel)
            raise

    async def group_add(self, group: str, channel: str) -> None:
        """Add a named channel, or one of this process, to a group; done once Redis confirms it.

        :raises redis.exceptions.ConnectionError: if Redis does not confirm it in time.
        :raises redis.exceptions.NoPermissionError: if Redis's user may not hear the group.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        if _is_named(channel):
            await self._queues.join(group, channel)
            return
        listener = self._listener
        if channel not in listener.receivers:
            listener.open(channel)
        for error in (await self.join_groups([group], channel)).values():
            raise error

    async def join_groups(self, groups: Sequence[str], channel: str) -> dict[str, Exception]:
        """Add a channel of this process to many groups in one round trip.

        :returns: the groups that Redis refuses, and why.
        :raises redis.exceptions.ConnectionError: if Redis does not confirm the others in time.
        """
        listener = self._listener
        is_fanout = channel in listener.receivers
        heard = {group: self._heard_in(group, is_fanout) for group in groups}
        return await listener.join(channel, heard)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        if _is_named(channel):
            await self._queues.leave(group, channel)
            return
        await self.leave_groups([group], channel)

    async def leave_groups(self, groups: Sequence[str], channel: str) -> None:
        """Take a channel of this process out of many groups."""
        listener = self._listener
        is_fanout = channel in listener.receivers
        heard = [name for group in groups for name in self._heard_in(group, is_fanout)]
        listener.unsubscribe(channel, heard)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every channel in a group."""
        self.require_valid_group_name(group)
        name = self._pubsub_channel_of_group(group)
        await self._queues.send_to_group(group, name, pack(message))

    async def close_channel(self, channel: str) -> None:
        """Listen no more to a channel, nor to its groups, and with the last one close the link."""
        listener = self._listener
        listener.discard_channel(channel)

    async def flush(self) -> None:
        """Forget all channels and groups of the running loop, and all named channels of the layer.

        :raises redis.exceptions.RedisError: if Redis cannot be reached, or refuses.
        """
        queues = self._queues
        try:
            await queues.clear()
        finally:
            await self._listener.close()
            queues.wake()


def _is_named(channel: str) -> bool:
    """Tell whether a channel is a queue in Redis, and not one of some process."""
    return "!" not in channel


def _new_name(prefix: str) -> str:
    return f"{prefix}!{uuid.uuid4().hex}"


def _require_text(name: str, kind: str, limit: int) -> bool:
    if not isinstance(name, str) or not 0 < len(name) < limit:
        raise TypeError(f"{kind} name must be a non-empty str, not {name!r:.100}")
    return True


def connection_arguments(hosts: Any) -> dict[str, Any] | None:
    """Return redis-py's arguments for the layer's own CONFIG; None for ``WS4REDIS_CONNECTION``."""
    if not hosts:
        return None
    host = hosts
    if isinstance(hosts, list | tuple) and not (len(hosts) == 2 and isinstance(hosts[1], int)):
        if len(hosts) > 1:
            raise ImproperlyConfigured(
                f"'hosts' of the channel layer names {len(hosts)} servers; it uses one."
            )
        host = hosts[0]
    if isinstance(host, dict):
        options = dict(host)
        return {"url": options.pop("address"), **options} if "address" in host else options
    if isinstance(host, str):
        return {"url": host}
    return {"host": host[0], "port": host[1]}
