"""The base of publishers and subscribers: whom a message is for, and how it gets there."""

from __future__ import annotations

from functools import partial
from sys import intern
from typing import Any, Self

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.handshake.policies import Options, options_of
from channels_ws4redis.protocol.messages import Positions, is_heartbeat
from channels_ws4redis.protocol.names import (
    BROADCAST,
    GROUP,
    SELF,
    SESSION,
    USER,
    SelfType,
    as_facility,
    channel_name,
    identities,
)
from channels_ws4redis.publish.addressing import as_flag, legacy_values, own_identities
from channels_ws4redis.publish.committing import after_commit
from channels_ws4redis.publish.failing import forgiven, tell
from channels_ws4redis.publish.keeping import (
    as_key,
    as_seconds,
    as_version,
    is_kept,
    require_nothing_kept,
)
from channels_ws4redis.store.commands import Publication
from channels_ws4redis.store.process import get_client, is_own_client

__all__ = ["SELF", "RedisMessage", "RedisStore"]


class RedisMessage(bytes):
    """The payload of a message, as bytes.

    :param value: ``str``, ``bytes`` or ``bytearray``. None and the heartbeat give None instead of a
        message, as in legacy: code asks ``if message:`` to hold back what must not be published.
    :raises ValueError: for any other value, which legacy silently turned into None.
    """

    def __new__(cls, value: Any) -> Self | None:  # type: ignore[misc] # None: legacy contract
        """Make a message, or None."""
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], bytes):
            # A pub/sub reply of redis-py, which legacy code passes on as it is.
            value = value[2] if value[0] == b"message" else None
        if value is None:
            return None
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError(
                f"A message cannot be made from {value!r}; pass str or bytes, for instance "
                "json.dumps(value)."
            )
        if is_heartbeat(value, settings.WS4REDIS_HEARTBEAT):
            return None
        return super().__new__(cls, value)


class RedisStore:
    """Names channels and publishes messages to them.

    :param connection: a synchronous redis-py client; by default the process's own.
    """

    #: The alias of the channel layer; a subclass may name another one.
    channel_layer_alias = "default"

    #: The identity of the socket whose client publishes; "" for Django code.
    _sender = ""
    #: True for what publishes in the name of a socket, whose client is not to wait for a commit of
    #: somebody else's, and is told of errors.
    _is_of_socket = False
    #: The facility whose policy may say how messages are kept.
    _policy_facility: str | None = None
    #: How many messages are kept of a channel, and seconds for which they are; None for what the
    #: policy says, or the settings.
    _history: int | None = None
    _history_expire: int | None = None

    def __init__(self, connection: Any = None) -> None:
        self._connection = connection
        self._publishers: set[str] = set()

    @property
    def _connection(self) -> Any:
        """A synchronous redis-py client; the process's own is made when first used."""
        connection = self.__dict__.get("_connection")
        return get_client() if connection is None else connection

    @_connection.setter
    def _connection(self, connection: Any) -> None:
        # The process's own client is not kept but looked up at each use. A publisher may have been
        # made when a module was imported, and the settings may have changed since.
        self.__dict__["_connection"] = None if is_own_client(connection) else connection

    @property
    def _expire(self) -> int:
        """Seconds for which a message is stored unless a call says otherwise."""
        expire: int | None = self.__dict__.get("_expire", self._options.expire)
        return settings.WS4REDIS_EXPIRE if expire is None else expire

    @_expire.setter
    def _expire(self, expire: int) -> None:
        self.__dict__["_expire"] = expire

    @property
    def _options(self) -> Options:
        return options_of(self._policy_facility)

    def publish_message(
        self,
        message: str | bytes | bytearray | RedisMessage,
        expire: int | None = None,
        *,
        on_commit: bool | None = None,
        using: str | None = None,
        idempotency_key: str = "",
        keep: bool | None = None,
        version: int | None = None,
    ) -> Positions:
        """Publish a message to every channel of this publisher, and store it.

        :param message: text, bytes or a `RedisMessage`. The configured heartbeat is not published.
        :param expire: seconds for which it is stored for clients that come later, instead of those
            of the policy, or ``WS4REDIS_EXPIRE``; with 0 it is not, and an older one stays.
        :param on_commit: publish once the open transactions have been committed, not at all if one
            is rolled back, and log errors. None for what ``WS4REDIS_ON_COMMIT`` says.
        :param using: the only database to wait for; by default all in a transaction in this thread.
        :param idempotency_key: publishing again with the same key within a day does nothing.
        :param keep: False to send the message and nothing else: it is neither stored nor numbered.
            None for what the facility's policy says.
        :param version: of the state that the message tells. Where a channel has had one as high,
            nothing is done there.
        :returns: where each channel stands then, by name. Empty if nothing is numbered, or not yet.
        :raises ValueError: if an argument can only be a mistake.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        publication = self._publication(message, expire, idempotency_key, keep, version)
        if not self._is_to_wait(on_commit, using):
            return self._publish(publication)
        found: Positions = {}
        after_commit(lambda: found.update(self._publish(publication, committed=True)), using)
        return found.copy()  # what is published later does not turn up there

    def _is_to_wait(self, on_commit: bool | None, using: str | None) -> bool:
        if on_commit is None:
            # A client of a socket is not to wait for what is somebody else's.
            on_commit = settings.WS4REDIS_ON_COMMIT and not self._is_of_socket
        if using is not None and not on_commit:
            raise ValueError(f"using={using!r} is for on_commit=True; pass both, or none.")
        return on_commit

    def _publish(self, publication: Publication, committed: bool = False) -> Positions:
        if publication.channels:  # a message for nobody needs not even a channel layer
            try:
                backend = backend_named(self.channel_layer_alias)
                return backend.publish(publication, self._connection)
            except forgiven(committed=committed, of_socket=self._is_of_socket) as error:
                tell(error, publication.channels)
        return {}

    async def apublish_message(
        self,
        message: str | bytes | bytearray | RedisMessage,
        expire: int | None = None,
        *,
        idempotency_key: str = "",
        keep: bool | None = None,
        version: int | None = None,
    ) -> Positions:
        """Publish a message at once; asyncio twin of `publish_message`.

        There is no ``on_commit``, whatever ``WS4REDIS_ON_COMMIT`` says, as Django has no
        transactions in asynchronous code.
        """
        publication = self._publication(message, expire, idempotency_key, keep, version)
        if publication.channels:
            try:
                return await backend_named(self.channel_layer_alias).apublish(publication)
            except forgiven(committed=False, of_socket=self._is_of_socket) as error:
                tell(error, publication.channels)
        return {}

    def _publication(
        self, message: Any, expire: int | None, key: str, keep: bool | None, version: int | None
    ) -> Publication:
        if message is None:
            raise ValueError(
                "The message is None; pass str, bytes or RedisMessage. "
                "(RedisMessage(…) gives None for the heartbeat, which is never published.)"
            )
        channels = self._channels()
        if not isinstance(message, RedisMessage):
            message = RedisMessage(message)
            if message is None:
                message, channels = b"", []  # the heartbeat
        options = self._options
        kept = is_kept(options, keep)
        if not kept:
            needing = {"expire": expire or None, "idempotency_key": key or None, "version": version}
            if keep is None:  # else it is an exception among messages that are kept
                needing |= {"history": self._history, "history_expire": self._history_expire}
            require_nothing_kept(keep, **needing)
        return Publication(
            channels,
            bytes(message),
            as_seconds("expire", self._expire if expire is None else expire),
            sender=self._sender,
            key=as_key(key),
            keep=kept,
            history=self._history or options.history,
            history_expire=self._history_expire or options.history_expire,
            version=as_version(version),
        )

    def _channels(self) -> list[str]:
        """Return the names of the channels that messages are published to."""
        return [as_text(name) for name in self._publishers]

    @staticmethod
    def get_prefix() -> str:
        """Return what every channel name begins with: ``WS4REDIS_PREFIX`` and a colon, or ""."""
        prefix = settings.WS4REDIS_PREFIX
        return intern(f"{prefix}:") if prefix else ""  # each socket keeps it

    def _get_message_channels(
        self,
        request: Any = None,
        facility: Any = "{facility}",
        broadcast: Any = False,
        groups: Any = (),
        users: Any = (),
        sessions: Any = (),
    ) -> list[str]:
        """Return the names of the channels that the arguments address.

        :raises ValueError: if an argument can only be a mistake.
        """
        facility = as_facility(facility)
        name = partial(channel_name, self.get_prefix(), facility=facility)
        names = [name(BROADCAST, None)] if as_flag(broadcast) else []
        for audience, keyword, values in (
            (GROUP, "groups", groups),
            (USER, "users", users),
            (SESSION, "sessions", sessions),
        ):
            if type(values) in {tuple, list} and not values:
                continue  # which is common, and nothing has to be looked at then
            for identity in identities(legacy_values(values, keyword), keyword):
                if isinstance(identity, SelfType):
                    names.extend(name(audience, own) for own in own_identities(request, audience))
                else:
                    names.append(name(audience, identity))
        return list(dict.fromkeys(names))


def as_text(name: str | bytes) -> str:
    """Return the name of a channel; legacy code adds names as bytes."""
    return name.decode() if isinstance(name, bytes) else name
