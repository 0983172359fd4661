"""The package's own channel layer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from channels.layers import BaseChannelLayer

from channels_ws4redis.store.commands import events_channel
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.pubsub import Handler, Listener, Message
from channels_ws4redis.store.topics import Kind

__all__ = ["RedisChannelLayer"]

#: What the names of the channels of fan-outs begin with.
FANOUT_PREFIX = "ws4redis."


class RedisChannelLayer(BaseChannelLayer):  # type: ignore[misc] # Channels has no types
    """A channel layer on Redis pub/sub that takes group names literally.

    :param hosts: a URL or a dict of redis-py's arguments; by default ``WS4REDIS_CONNECTION``.
    :param prefix: put before the names of pub/sub channels.
    :param capacity: messages that may wait on one channel before further ones are dropped.
    :param channel_capacity: other capacities, by pattern of the channel's name.

    Unlike the layers of channels_redis it says when its link to Redis was lost, bounds its queues,
    and joining a group is done once Redis has confirmed it.
    """

    extensions = ["groups", "flush"]  # noqa: RUF012 # an attribute of the layer specification
    MAX_NAME_LENGTH = 65536

    def __init__(
        self,
        hosts: Any = None,
        prefix: str = "",
        capacity: int = 10_000,
        channel_capacity: dict[Any, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(capacity=capacity, **kwargs)
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
        return self._require_text(name, "Group")

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Take any non-empty text.

        :raises TypeError: for anything else, as other layers do.
        """
        return self._require_text(name, "Channel")

    def _require_text(self, name: str, kind: str) -> bool:
        if not isinstance(name, str) or not 0 < len(name) < self.MAX_NAME_LENGTH:
            raise TypeError(f"{kind} name must be a non-empty str, not {name!r:.100}")
        return True

    @property
    def _listener(self) -> Listener:
        """The part of the layer that belongs to the running event loop."""
        return this_loop().get(self, lambda: Listener(self._connection, self.get_capacity))

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a new channel of this process."""
        listener = self._listener
        name = f"{prefix}{uuid.uuid4().hex}"
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
        name = f"{FANOUT_PREFIX}{uuid.uuid4().hex}"
        listener.receivers[name] = receiver
        return name

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel."""
        self.require_valid_channel_name(channel)
        listener = self._listener
        if not listener.put(channel, message):
            await listener.publish(self._pubsub_channel_of(channel), message)

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel, waiting for it."""
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
        """Add a channel of this process to a group; done once Redis has confirmed it.

        :raises redis.exceptions.ConnectionError: if Redis does not confirm it in time.
        :raises redis.exceptions.NoPermissionError: if Redis's user may not hear the group.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
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
        await self.leave_groups([group], channel)

    async def leave_groups(self, groups: Sequence[str], channel: str) -> None:
        """Take a channel out of many groups."""
        listener = self._listener
        is_fanout = channel in listener.receivers
        heard = [name for group in groups for name in self._heard_in(group, is_fanout)]
        await listener.unsubscribe(channel, heard)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every channel in a group."""
        self.require_valid_group_name(group)
        listener = self._listener
        await listener.publish(self._pubsub_channel_of_group(group), message)

    async def close_channel(self, channel: str) -> None:
        """Forget a channel, its groups and, with the last channel, the connection."""
        listener = self._listener
        listener.discard_channel(channel)

    async def flush(self) -> None:
        """Forget all channels and groups of the running loop, and close its connection."""
        await self._listener.close()


def connection_arguments(hosts: Any) -> dict[str, Any] | None:
    """Return redis-py's arguments for the layer's own CONFIG; None for ``WS4REDIS_CONNECTION``."""
    if not hosts:
        return None
    host = hosts[0] if isinstance(hosts, list | tuple) and not isinstance(hosts[0], int) else hosts
    if isinstance(host, dict):
        options = dict(host)
        return {"url": options.pop("address"), **options} if "address" in host else options
    if isinstance(host, str):
        return {"url": host}
    return {"host": host[0], "port": host[1]}
