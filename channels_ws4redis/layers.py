"""The package's own channel layer, and what every other layer needs to carry its group names."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import re
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any
from weakref import WeakKeyDictionary

import msgpack
import redis.asyncio
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.messages import EVENT_TYPE
from channels_ws4redis.store.clients import (
    UNREACHABLE,
    close_with_loop,
    disconnect,
    make_async_client,
)
from channels_ws4redis.store.commands import ENVELOPE, Affixes, parse_envelope
from channels_ws4redis.store.fairness import Turn

logger = logging.getLogger(__name__)

#: First bytes of a message that some other consumer of the project sent through the layer.
MESSAGE = b"\0asgi "

#: What the names of the channels of fan-outs begin with.
FANOUT_PREFIX = "ws4redis."

#: ``type`` of the message that tells a fan-out that the link to Redis had been lost and is back.
RELINKED_TYPE = "ws4redis.relinked"

#: Seconds without a sign of life from Redis after which the link is tested, and after the same
#: time again given up.
SILENCE = 2.0

#: Seconds between attempts to reconnect: the first, and the longest.
BACKOFF = 0.05, 1.0

#: Seconds for connecting and the handshake.
CONNECT_TIMEOUT = 3.0

#: Seconds that joining a group may take; daphne gives a handshake five in all.
JOIN_TIMEOUT = 4.0

Message = dict[str, Any]
Receiver = Callable[[Message], None]


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
        self._connection = _connection_arguments(hosts)
        self._listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, Listener] = (
            WeakKeyDictionary()
        )

    @property
    def stores(self) -> bool:
        """True if one script can store a message and send it: the layer's Redis is the store's."""
        return self._connection is None

    def pubsub_affixes(self, legacy_servers: bool) -> Affixes:
        """Return what the names of the Redis pub/sub channels of groups have around them."""
        if legacy_servers:
            # Legacy servers own the channel of the bare name; they would show an envelope to users.
            return Affixes(f"{self.prefix}{{", "}:events")
        return Affixes(self.prefix, "")

    def _pubsub_channel_of_group(self, group: str) -> str:
        head, tail = self.pubsub_affixes(settings.WS4REDIS_LEGACY_SERVERS)
        return f"{head}{group}{tail}"

    def _pubsub_channel_of(self, channel: str) -> str:
        """Return the name of the Redis pub/sub channel of a channel, apart from those of groups."""
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

    async def _listener(self) -> Listener:
        loop = asyncio.get_running_loop()
        listener = self._listeners.get(loop)
        if listener is None:
            # The link waits for messages for as long as it takes; silence is watched elsewhere.
            client = make_async_client(self._connection, socket_timeout=None, protocol=2)
            listener = self._listeners[loop] = Listener(self, client)
            await listener.close_with_loop()
        return listener

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a new channel of this process."""
        listener = await self._listener()
        name = f"{prefix}{uuid.uuid4().hex}"
        listener.open(name)
        # Whoever is told the name may use it at once, in any process.
        await listener.subscribe(self._pubsub_channel_of(name), name)
        return name

    async def new_fanout(self, receiver: Receiver) -> str:
        """Return the name of a new channel for a fan-out of this process.

        It has no queue: ``receiver`` is called with each message when it is read from Redis, also
        with those that foreign programs publish, and with a `RELINKED_TYPE` after the link was
        lost. While it is busy nothing is read, and what is too much waits in Redis.
        """
        listener = await self._listener()
        name = f"{FANOUT_PREFIX}{uuid.uuid4().hex}"
        listener.receivers[name] = receiver
        return name

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel."""
        self.require_valid_channel_name(channel)
        listener = await self._listener()
        if not listener.put(channel, message):
            await listener.publish(self._pubsub_channel_of(channel), message)

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel, waiting for it."""
        listener = await self._listener()
        queue = listener.open(channel)
        pubsub_channel = self._pubsub_channel_of(channel)
        if not listener.hears(pubsub_channel, channel):
            await listener.subscribe(pubsub_channel, channel)
        try:
            return await queue.get()
        except asyncio.CancelledError:
            # Channels has no other way to say that a consumer is gone.
            listener.discard_channel(channel)
            raise

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of this process to a group; done once Redis has confirmed it.

        :raises redis.exceptions.ConnectionError: if Redis does not confirm it in time.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        listener = await self._listener()
        is_fanout, legacy = channel in listener.receivers, settings.WS4REDIS_LEGACY_SERVERS
        if not is_fanout:
            listener.open(channel)
        name = self._pubsub_channel_of_group(group)
        await listener.subscribe(name, channel, Subscription(group, mirrored=legacy))
        if legacy and is_fanout:
            # No prefix of the layer's: it is the very channel that legacy publishes on.
            await listener.subscribe(group, channel, Subscription(group, bare=True))

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group."""
        listener = await self._listener()
        await listener.unsubscribe(self._pubsub_channel_of_group(group), channel)
        await listener.unsubscribe(group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every channel in a group."""
        self.require_valid_group_name(group)
        listener = await self._listener()
        await listener.publish(self._pubsub_channel_of_group(group), message)

    async def close_channel(self, channel: str) -> None:
        """Forget a channel, its groups and, with the last channel, the connection."""
        listener = await self._listener()
        listener.discard_channel(channel)

    async def flush(self) -> None:
        """Forget all channels and groups of the running loop, and close its connection."""
        await (await self._listener()).close()


def _connection_arguments(hosts: Any) -> dict[str, Any] | None:
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


async def _disconnect(connection: Any) -> None:
    with contextlib.suppress(*UNREACHABLE):
        await connection.disconnect(nowait=True)


class Subscription:
    """One Redis pub/sub channel and the layer's channels that listen on it.

    :param bare: it is the channel of legacy programs, on which there are payloads alone.
    :param mirrored: what arrives here in an envelope arrives on the bare channel as well.
    """

    def __init__(self, group: str = "", bare: bool = False, mirrored: bool = False) -> None:
        self.group = group
        self.bare = bare
        self.mirrored = mirrored
        self.channels: set[str] = set()
        #: Done once Redis has confirmed the subscription on the present connection.
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Raw copies of our own events that legacy servers got too, and that are due on this one.
        self.mirrors = 0


class Listener:
    """The part of the layer that belongs to one event loop: a pub/sub connection and the queues."""

    def __init__(self, layer: RedisChannelLayer, client: redis.asyncio.Redis) -> None:
        self._layer = layer
        self._client = client
        self._pool: Any = client.connection_pool
        self._queues: dict[str, asyncio.Queue[Message]] = {}
        #: By channel, the fan-outs of this process.
        self.receivers: dict[str, Receiver] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self._finalizer: AsyncGenerator[None] | None = None
        self._heard = 0.0

    async def close_with_loop(self) -> None:
        """Close with the running event loop."""
        self._finalizer = await close_with_loop(self.close)

    def open(self, channel: str) -> asyncio.Queue[Message]:
        """Return the queue of a channel, made when first asked for."""
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = asyncio.Queue(self._layer.get_capacity(channel))
        return queue

    def _taker(self, channel: str) -> Receiver | None:
        """Return what takes the messages of a channel, if it is one of this process."""
        if channel in self._queues:
            return self._queues[channel].put_nowait
        return self.receivers.get(channel)

    def put(self, channel: str, message: Message) -> bool:
        """Put a message on a local channel; False if the channel is not one of this process.

        :raises channels.exceptions.ChannelFull: if too many messages wait there.
        """
        take = self._taker(channel)
        if take is None:
            return False
        try:
            # A copy, as if it came from another process: sender and receiver may change their own.
            take(msgpack.unpackb(msgpack.packb(message)))
        except asyncio.QueueFull:
            raise ChannelFull(channel) from None
        return True

    async def publish(self, pubsub_channel: str, message: Message) -> None:
        """Publish a message of another consumer."""
        await self._client.publish(pubsub_channel, MESSAGE + msgpack.packb(message))

    def hears(self, pubsub_channel: str, channel: str) -> bool:
        """Tell whether a channel listens, or will again once the link is back."""
        subscription = self._subscriptions.get(pubsub_channel)
        return subscription is not None and channel in subscription.channels

    async def subscribe(
        self, pubsub_channel: str, channel: str, new: Subscription | None = None
    ) -> None:
        """Make a channel listen; returns once Redis has confirmed the subscription.

        :param new: what to note of the pub/sub channel if nobody listens on it yet.
        :raises redis.exceptions.ConnectionError: if it does not in time.
        """
        subscription = self._subscriptions.get(pubsub_channel)
        if subscription is None:
            subscription = self._subscriptions[pubsub_channel] = new or Subscription()
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="ws4redis-listener")
            elif self._connection is not None:
                await self._command("SUBSCRIBE", pubsub_channel)
        subscription.channels.add(channel)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                while not subscription.confirmed.done():
                    # shield: the future is shared with everyone else who joins this group now.
                    await asyncio.shield(subscription.confirmed)
        except TimeoutError:
            raise redis.exceptions.ConnectionError(
                f"Redis did not confirm the subscription to {pubsub_channel!r} "
                f"within {JOIN_TIMEOUT:.0f} s."
            ) from None

    async def unsubscribe(self, pubsub_channel: str, channel: str) -> None:
        """Stop a channel from listening."""
        subscription = self._subscriptions.get(pubsub_channel)
        if subscription is None:
            return
        subscription.channels.discard(channel)
        if not subscription.channels:
            del self._subscriptions[pubsub_channel]
            if self._connection is not None:
                await self._command("UNSUBSCRIBE", pubsub_channel)

    def discard_channel(self, channel: str) -> None:
        """Forget a channel and all its subscriptions."""
        self._queues.pop(channel, None)
        self.receivers.pop(channel, None)
        for name, subscription in list(self._subscriptions.items()):
            subscription.channels.discard(channel)
            if not subscription.channels:
                del self._subscriptions[name]
                if self._connection is not None and self._subscriptions:
                    task = asyncio.ensure_future(self._command("UNSUBSCRIBE", name))
                    _background.add(task)
                    task.add_done_callback(_background.discard)
        if not self._subscriptions and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _command(self, *args: str) -> None:
        """Send a command on the pub/sub connection; if that fails the link is made anew."""
        if self._connection is None:
            return  # the link is gone meanwhile; the next one begins with what is wanted then
        try:
            await self._connection.send_command(*args, check_health=False)
        except UNREACHABLE:
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            await _disconnect(self._connection)

    async def _run(self) -> None:
        """Hold the link to Redis for as long as anybody listens."""
        delay, relinking = BACKOFF[0], False
        while True:
            connection = None
            try:
                connection = self._pool.make_connection()
                # The handshake has no timeout of its own: the link may wait for ever.
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await connection.connect()
                self._connection = connection
                delay = BACKOFF[0]
                if self._subscriptions:
                    await connection.send_command("SUBSCRIBE", *self._subscriptions)
                await self._attend(connection, relinking)
            except UNREACHABLE as error:
                logger.warning("Lost the link to Redis, reconnecting: %s", error)
                self._fail_waiting(error)
            except Exception:
                logger.exception("The link to Redis failed, reconnecting")
            finally:
                self._connection = None
                if connection is not None:
                    await _disconnect(connection)
            relinking = True
            for subscription in self._subscriptions.values():
                subscription.mirrors = 0
                if subscription.confirmed.done():
                    subscription.confirmed = asyncio.get_running_loop().create_future()
            # Jitter, or all processes of a site would come back in the same instant.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 # no secret
            delay = min(2 * delay, BACKOFF[1])

    def _fail_waiting(self, error: Exception) -> None:
        """Tell those who wait for a confirmation that there will be none for now."""
        for subscription in self._subscriptions.values():
            if not subscription.confirmed.done():
                subscription.confirmed.set_exception(redis.exceptions.ConnectionError(str(error)))
                subscription.confirmed.exception()  # nobody need be waiting
                subscription.confirmed = asyncio.get_running_loop().create_future()

    async def _attend(self, connection: Any, relinking: bool) -> None:
        """Read from the link, test it when it is silent, and leave it if Redis does not answer."""
        clock = asyncio.get_running_loop().time
        self._heard = clock()
        asked: float | None = None
        listening = asyncio.create_task(self._listen(connection, relinking))
        try:
            while not (await asyncio.wait([listening], timeout=SILENCE / 2))[0]:
                now = clock()
                if asked is not None and self._heard >= asked:
                    asked = None
                if asked is not None and now - asked >= SILENCE:
                    raise redis.exceptions.ConnectionError(
                        f"no answer for {now - self._heard:.1f} s"
                    )
                if asked is None and now - self._heard >= SILENCE:
                    asked = now
                    await self._command("PING")
            listening.result()
        finally:
            listening.cancel()

    async def _listen(self, connection: Any, relinking: bool) -> None:
        clock = asyncio.get_running_loop().time
        read = connection.read_response
        turn = Turn()
        while True:
            reply = await read(disconnect_on_error=False)
            self._heard = clock()
            if not isinstance(reply, list):
                continue  # the answer to a PING before the first subscription
            if reply[0] == b"message":
                try:
                    self._dispatch(reply[1].decode(), reply[2])
                except Exception:
                    logger.exception("A message on %r cannot be understood", reply[1])
                turn.spend(len(reply[2]))
                await turn.end_if_due()  # reading does not wait while there are messages
            elif reply[0] == b"subscribe":
                subscription = self._subscriptions.get(reply[1].decode())
                if subscription is not None and not subscription.confirmed.done():
                    subscription.confirmed.set_result(None)
                if relinking and all(s.confirmed.done() for s in self._subscriptions.values()):
                    relinking = False
                    for receiver in list(self.receivers.values()):
                        receiver({"type": RELINKED_TYPE})

    def _dispatch(self, pubsub_channel: str, data: bytes) -> None:
        subscription = self._subscriptions.get(pubsub_channel)
        if subscription is None or not subscription.confirmed.done():
            return  # for one who has left, though somebody may be about to come back
        if subscription.mirrors:
            # Before the rest: a client chose these bytes, and may imitate what is looked for below.
            subscription.mirrors -= 1
            return
        if data.startswith(MESSAGE) and not subscription.bare:
            # Unpacked per channel, as each consumer may change what it gets.
            for name in list(subscription.channels):
                self._hand_over(name, msgpack.unpackb(data[len(MESSAGE) :]))
            return
        # An envelope on the bare channel comes from a process that does not know yet of legacy
        # servers, and makes no copies.
        if subscription.mirrored and data.startswith(ENVELOPE):
            self._expect_mirror(subscription.group)
        message = {"type": EVENT_TYPE, "event": parse_envelope(subscription.group, data)}
        for name in list(subscription.channels):
            if name in self.receivers:
                self.receivers[name](message)

    def _expect_mirror(self, group: str) -> None:
        """Note that the event just heard follows a second time, as a bare payload.

        Both were published by one script and Redis keeps the order on one connection, so the next
        bare payload on that channel is the copy and no message of a legacy program.
        """
        raw = self._subscriptions.get(group)
        if raw is not None and raw.confirmed.done():
            raw.mirrors += 1

    def _hand_over(self, channel: str, message: Message) -> None:
        take = self._taker(channel)
        if take is not None:
            try:
                take(message)
            except asyncio.QueueFull:
                logger.warning("Channel %s is full; a message was dropped", channel)

    async def close(self) -> None:
        """Forget everything and close all connections."""
        self._queues.clear()
        self.receivers.clear()
        self._subscriptions.clear()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await disconnect(self._client)


#: Keeps tasks that nobody awaits from being collected.
_background: set[asyncio.Future[Any]] = set()

_LEGAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,99}", re.ASCII)
_ILLEGAL = re.compile(rb"[^A-Za-z0-9.-]")


def group_name(layer: Any, channel: str) -> str:
    """Return the name under which a layer carries the group of a channel.

    It is the channel name itself wherever the layer takes it. Channels' own layers take letters,
    digits, hyphens, underscores and periods only, fewer than 100 of them: there every other byte
    becomes ``_`` and two hex digits, and what is too long then becomes a digest. No two channels
    share a name.
    """
    try:
        check = layer.require_valid_group_name
    except (AttributeError, RuntimeError):
        return channel  # channels_redis.pubsub checks nothing and takes all
    try:
        check(channel)
    except TypeError:
        return encode_name(channel)
    return channel


def encode_name(name: str) -> str:
    """Return an injective spelling of any text in the letters that every layer takes."""
    encoded = _ILLEGAL.sub(lambda match: b"_%02x" % match[0][0], name.encode()).decode()
    if _LEGAL_NAME.fullmatch(encoded):
        return encoded
    # "__" cannot come out of the substitution above, so no short name looks like a digest.
    return "ws4redis__" + hashlib.blake2b(name.encode(), digest_size=32).hexdigest()
