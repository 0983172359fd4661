"""The class with which Django code publishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Never

from asgiref.sync import sync_to_async
from django.utils.asyncio import async_unsafe
from redis import StrictRedis as StrictRedis  # noqa: PLC0414 # legacy code has it from here

from channels_ws4redis.conf import MAX_HISTORY
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.protocol.messages import Position, Positions
from channels_ws4redis.protocol.names import AUDIENCES, BROADCAST, as_facility, channel_name
from channels_ws4redis.publish.addressing import (
    own_identities,
    require_arguments,
    warn,
    why_unheard,
)
from channels_ws4redis.publish.given_clients import client_given_to, tell_if_elsewhere
from channels_ws4redis.publish.histories import History, Inquiry, Message, Since
from channels_ws4redis.publish.keeping import as_number, as_seconds
from channels_ws4redis.redis_store import RedisMessage, RedisStore
from channels_ws4redis.store.commands import Publication, fetch_command
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.runner import get_runner, run
from channels_ws4redis.store.scripts import Result

__all__ = ["History", "Message", "Position", "RedisPublisher"]

#: What legacy has as the facility if none is given.
NO_FACILITY = ":{facility}"


class RedisPublisher(RedisStore):
    """Publishes to a facility's audiences; nothing is connected until a message is sent.

    :param facility: the part of the socket's URL path after ``WEBSOCKET_URL``.
    :param broadcast: True to reach everyone who listens on the facility.
    :param users: user names or ``User`` objects; ``SELF`` is the user of ``request``.
    :param groups: auth group names or ``Group`` objects; ``SELF`` means all of the user's.
    :param sessions: session keys; ``SELF`` is the session of ``request``.
    :param request: the HTTP request that ``SELF`` refers to.
    :param history: messages that are kept of a channel, instead of those that the facility's policy
        or ``WS4REDIS_HISTORY`` says.
    :param history_expire: seconds for which they are kept after the last one, instead of those of
        the policy or ``WS4REDIS_HISTORY_EXPIRE``.
    :raises ValueError: if an argument names nobody by mistake, or an audience has no facility.
    :raises TypeError: for an argument without a name, or with a name that there is not.

    Nothing is published for a user that does not exist (an anonymous one), nor for a session that
    has not been saved.
    """

    #: True if neither ``broadcast`` nor ``users``, ``groups`` or ``sessions`` was passed.
    _has_no_audience = False

    def __init__(
        self,
        *unnamed: Never,
        history: int | None = None,
        history_expire: int | None = None,
        **kwargs: Any,
    ) -> None:
        if unnamed:
            raise TypeError(
                f"RedisPublisher({unnamed[0]!r}, …) has an argument without a name; write them all "
                "by name, e.g. RedisPublisher(facility='foobar', broadcast=True)."
            )
        # The client is passed on although it is the default: the __init__ of a mixin may insist on
        # a connection, as the one of legacy did.
        super().__init__(get_client())
        self._has_no_audience = not kwargs.keys() - {"facility", "request"}
        try:
            channels = self._get_message_channels(**kwargs)
        except TypeError:
            require_arguments(self._get_message_channels, kwargs)
            raise
        if "facility" not in kwargs and any(map(_has_no_facility, channels)):
            raise ValueError(
                f"RedisPublisher({', '.join(f'{name}=…' for name in kwargs)}) has no facility; "
                "pass the part of the sockets' URL path after WEBSOCKET_URL, e.g. "
                "facility='foobar'."
            )
        self._publishers.update(channels)
        if history is not None:
            self._history = as_number("history", history, 1, MAX_HISTORY)
        if history_expire is not None:
            self._history_expire = as_seconds("history_expire", history_expire, 1)
        if "facility" in kwargs:
            self._policy_facility = as_facility(kwargs["facility"])

    def _publication(
        self, message: Any, expire: int | None, key: str, keep: bool | None, version: int | None
    ) -> Publication:
        if self._has_no_audience and not self._publishers:
            warn(
                "A message is published to nobody: the publisher has no audience. Make it with "
                "broadcast=True, users=[…], groups=[…] or sessions=[…].",
                RuntimeWarning,
            )
        elif (reason := why_unheard(self._policy_facility)) is not None:
            warn(
                "A message is published to nobody: no socket can open on the facility "
                f"{self._policy_facility!r}, as {reason}.",
                RuntimeWarning,
            )
        tell_if_elsewhere(self)
        return super()._publication(message, expire, key, keep, version)

    async def apublish_message(
        self,
        message: str | bytes | bytearray | RedisMessage,
        expire: int | None = None,
        *,
        idempotency_key: str = "",
        keep: bool | None = None,
        version: int | None = None,
    ) -> Positions:
        """Publish a message at once; asyncio twin of `publish_message`."""
        if client_given_to(self) is None:
            publish: Any = super().apublish_message
        else:  # a synchronous one
            at_once = partial(self.publish_message, on_commit=False)
            publish = sync_to_async(at_once, thread_sensitive=False)
        found: Positions = await publish(
            message, expire, idempotency_key=idempotency_key, keep=keep, version=version
        )
        return found

    def pipeline_publish_message(
        self, message: Any, expire: int | None = None, transaction: bool = True
    ) -> Positions:
        """Publish a message; the same as `publish_message`, which is one round trip anyway.

        :param transaction: ignored; storing and publishing are always one step.
        """
        return self.publish_message(message, expire)

    @async_unsafe("history() would hold up this event loop; await ahistory().")
    def history(self, since: Since | None = None, limit: int | None = None) -> dict[str, History]:
        """Return what is kept of each channel of this publisher, by the channel's name.

        :param since: leave out what somebody has already, and tell whether something is missing: a
            position, as `publish_message` and this method return them, or several by channel. They
            may have been JSON meanwhile. A channel without one is read from its beginning.
        :param limit: messages of a channel: the first ones after ``since``, or else the last ones.
        :raises ValueError: if an argument can only be a mistake.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        :raises django.core.exceptions.SynchronousOnlyOperation: on an event loop.
        """
        inquiry = Inquiry(self._channels(), since, limit)
        backend = backend_named(self.channel_layer_alias)
        for part in inquiry.parts():
            inquiry.take(backend.read(part, self._connection))
        return inquiry.found

    async def ahistory(
        self, since: Since | None = None, limit: int | None = None
    ) -> dict[str, History]:
        """Return what is kept of each channel; asyncio twin of `history`."""
        if client_given_to(self) is not None:  # a synchronous one
            return await sync_to_async(self.history, thread_sensitive=False)(since, limit)
        inquiry = Inquiry(self._channels(), since, limit)
        backend = backend_named(self.channel_layer_alias)
        await get_runner().require_answers()
        for part in inquiry.parts():
            inquiry.take(await backend.aread(part))
        return inquiry.found

    @async_unsafe("purge() would hold up this event loop; await apurge().")
    def purge(self) -> Positions:
        """Delete all that is kept of each channel of this publisher, and tell open sockets.

        Nobody is sent again what was published before. Pages get the event ``purged``, and those
        that come back later are told ``lost``.

        :returns: up to where each channel was deleted, by name.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses, whatever
            ``WS4REDIS_ON_ERROR`` says: what should be gone must not stay without a word.
        :raises django.core.exceptions.SynchronousOnlyOperation: on an event loop.
        """
        channels = self._channels()
        backend = backend_named(self.channel_layer_alias)
        return backend.purge(channels, self._connection) if channels else {}

    async def apurge(self) -> Positions:
        """Delete all that is kept of each channel; asyncio twin of `purge`."""
        if client_given_to(self) is not None:  # a synchronous one
            return await sync_to_async(self.purge, thread_sensitive=False)()
        channels = self._channels()
        backend = backend_named(self.channel_layer_alias)
        return await backend.apurge(channels) if channels else {}

    def fetch_message(self, request: Any, facility: str, audience: str = "any") -> bytes | None:
        """Return the stored message of a facility that a request may see, or None.

        :param audience: ``session``, ``user``, ``group`` or ``broadcast``; with ``any`` they are
            searched in that order, and the first message found is returned.
        :raises ValueError: for another audience.
        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        """
        names = self._stored_names(request, facility, audience)
        return _first(run(self._connection, [fetch_command(name) for name in names]))

    async def afetch_message(
        self, request: Any, facility: str, audience: str = "any"
    ) -> bytes | None:
        """Return the stored message of a facility; asyncio twin of `fetch_message`."""
        if client_given_to(self) is not None:  # a synchronous one
            return await sync_to_async(self.fetch_message)(request, facility, audience)
        # In a thread, as finding out who asks may load the session and the user from the database.
        names = await sync_to_async(self._stored_names)(request, facility, audience)
        await get_runner().require_answers()
        return _first(await get_runner().run([fetch_command(name) for name in names]))

    @async_unsafe(
        "count_listeners() would wait for this event loop to answer; await acount_listeners()."
    )
    def count_listeners(self) -> int:
        """Return how many sockets hear what this publisher publishes, in all processes.

        They are asked now, which takes milliseconds on the package's own layer and a second on
        others, or where another program hears what a process would. A process that does not answer
        within a second counts for nothing, and a socket that hears several of the channels counts
        on each.

        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        :raises redis.exceptions.NoPermissionError: if Redis's user may not do what that needs.
        :raises django.core.exceptions.SynchronousOnlyOperation: on an event loop.
        """
        backend = backend_named(self.channel_layer_alias)
        return sum(backend.count(self._channels(), self._connection).values())

    async def acount_listeners(self) -> int:
        """Return how many sockets hear this publisher; asyncio twin of `count_listeners`."""
        if client_given_to(self) is not None:  # a synchronous one
            return await sync_to_async(self.count_listeners, thread_sensitive=False)()
        backend = backend_named(self.channel_layer_alias)
        await get_runner().require_answers()
        return sum((await backend.acount(self._channels())).values())

    def _stored_names(self, request: Any, facility: Any, audience: str) -> list[str]:
        if audience != "any" and audience not in AUDIENCES:
            raise ValueError(
                f"audience={audience!r} is unknown; use one of {', '.join(AUDIENCES)} or any."
            )
        facility = as_facility(facility)
        prefix = self.get_prefix()
        return [
            channel_name(prefix, wanted, identity, facility)
            for wanted in (AUDIENCES if audience == "any" else (audience,))
            for identity in _identities_of(request, wanted)
        ]


def _first(messages: Iterable[Result]) -> bytes | None:
    for message in messages:
        if isinstance(message, Exception):
            raise message
        if message:
            return bytes(message)
    return None


def _has_no_facility(channel: str | bytes) -> bool:
    return str(channel).endswith(NO_FACILITY)


def _identities_of(request: Any, audience: str) -> Iterator[str | None]:
    if audience == BROADCAST:
        yield None
    else:
        yield from own_identities(request, audience)


def __getattr__(name: str) -> Any:
    # Legacy made this pool when the module was imported; here it is made when somebody asks for it.
    if name == "redis_connection_pool":
        return get_client().connection_pool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
