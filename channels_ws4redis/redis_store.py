"""The base of publishers and subscribers: whom a message is for, and how it gets there."""

from __future__ import annotations

import inspect
import logging
import warnings
from functools import partial
from typing import Any, Self

from channels_ws4redis.committing import after_commit
from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.handshake.policies import Options, options_of
from channels_ws4redis.handshake.sessions import session_key
from channels_ws4redis.keeping import as_seconds, is_kept
from channels_ws4redis.protocol.messages import is_heartbeat
from channels_ws4redis.protocol.names import (
    BROADCAST,
    GROUP,
    MEMBER_OF,
    SELF,
    SESSION,
    USER,
    SelfType,
    as_facility,
    channel_name,
    identities,
)
from channels_ws4redis.protocol.texts import reason_of, shown
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.commands import Publication
from channels_ws4redis.store.process import get_client, is_own_client

__all__ = ["SELF", "RedisMessage", "RedisStore"]

logger = logging.getLogger(__name__)


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
    #: The facility whose policy may say how messages are kept.
    _policy_facility: str | None = None

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
        on_commit: bool = False,
        using: str | None = None,
        idempotency_key: str = "",
        keep: bool | None = None,
    ) -> None:
        """Publish a message to every channel of this publisher, and store it.

        :param message: text, bytes or a `RedisMessage`. The configured heartbeat is not published.
        :param expire: seconds for which the message is stored for clients that come later, instead
            of those of the facility's policy, or ``WS4REDIS_EXPIRE``; with 0 it is not, and an
            older message stays in place. Clients that come back recover from the history.
        :param on_commit: publish once the open database transactions have been committed, and not
            at all if one is rolled back. Then an error is logged and not raised: what has been
            committed must not look as if it had failed.
        :param using: the alias of the only database that ``on_commit`` waits for; by default all
            that are in a transaction in this thread.
        :param idempotency_key: publishing again with the same key within a day does nothing, so
            that a publish that timed out can safely be repeated.
        :param keep: False to send the message and nothing else, which costs least: it is neither
            stored nor numbered, and nobody is told who misses it. By default as the facility's
            policy says, which is True without one.
        :raises ValueError: if an argument can only be a mistake.
        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        """
        publication = self._publication(message, expire, idempotency_key, keep)
        if on_commit:
            after_commit(partial(self._try_to_publish, publication), using)
        elif using is not None:
            raise ValueError(f"using={using!r} is for on_commit=True; pass both, or none.")
        else:
            self._publish(publication)

    def _try_to_publish(self, publication: Publication) -> None:
        try:
            self._publish(publication)
        except Exception as error:
            logger.error(
                "Committed, but the message on %s is not published: %s",
                shown(" ".join(publication.channels)),
                reason_of(error),
                exc_info=not isinstance(error, UNREACHABLE),
            )

    def _publish(self, publication: Publication) -> None:
        if publication.channels:  # a message for nobody needs not even a channel layer
            backend_named(self.channel_layer_alias).publish(publication, self._connection)

    async def apublish_message(
        self,
        message: str | bytes | bytearray | RedisMessage,
        expire: int | None = None,
        *,
        idempotency_key: str = "",
        keep: bool | None = None,
    ) -> None:
        """Publish a message; asyncio twin of `publish_message`.

        There is no ``on_commit``, as Django has no transactions in asynchronous code.
        """
        publication = self._publication(message, expire, idempotency_key, keep)
        if publication.channels:
            await backend_named(self.channel_layer_alias).apublish(publication)

    def _publication(
        self, message: Any, expire: int | None, key: str, keep: bool | None
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
        keep = is_kept(self._options, expire, key, keep)
        expire = as_seconds(self._expire if expire is None else expire)
        history, seconds = self._options.history, self._options.history_expire
        payload = bytes(message)
        return Publication(channels, payload, expire, self._sender, key, history, keep, seconds)

    def _channels(self) -> list[str]:
        """Return the names of the channels that messages are published to."""
        return [as_text(name) for name in self._publishers]

    @staticmethod
    def get_prefix() -> str:
        """Return what every channel name begins with: ``WS4REDIS_PREFIX`` and a colon, or ""."""
        prefix = settings.WS4REDIS_PREFIX
        return f"{prefix}:" if prefix else ""

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
        names = [name(BROADCAST, None)] if _as_flag(broadcast) else []
        for audience, keyword, values in (
            (GROUP, "groups", groups),
            (USER, "users", users),
            (SESSION, "sessions", sessions),
        ):
            if values == ():
                continue  # the default is common, and nothing has to be looked at then
            for identity in identities(_legacy_values(values, keyword), keyword):
                if isinstance(identity, SelfType):
                    names.extend(name(audience, own) for own in own_identities(request, audience))
                else:
                    names.append(name(audience, identity))
        return list(dict.fromkeys(names))


def own_identities(request: Any, audience: str) -> list[str]:
    """Return the identities of a request in an audience: its session, its user, or its auth groups.

    :param request: any object with ``session`` and ``user``, or None.
    """
    session = getattr(request, "session", None)
    if audience == SESSION:
        key = session_key(session)
        return [key] if key else []
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return []
    if audience == USER:
        name = user.get_username()
        return [str(name)] if name else []
    members = session.get(MEMBER_OF) if session is not None else None
    if isinstance(members, str) or not members:
        return [members] if members else []
    return [str(member) for member in members if member]


def as_text(name: str | bytes) -> str:
    """Return the name of a channel; legacy code adds names as bytes."""
    return name.decode() if isinstance(name, bytes) else name


def _as_flag(broadcast: Any) -> bool:
    if isinstance(broadcast, bool) or broadcast is None:
        return bool(broadcast)
    if broadcast in (0, 1):
        _deprecate(f"broadcast={broadcast!r}", f"broadcast={bool(broadcast)}")
        return bool(broadcast)
    raise ValueError(f"broadcast={broadcast!r} is neither True nor False.")


def _legacy_values(values: Any, keyword: str) -> Any:
    """Translate the short forms of legacy: True for oneself, False for nobody, a bare name."""
    if values is True:
        _deprecate(f"{keyword}=True", f"{keyword}=[SELF]")
        return SELF
    if values is False:
        return ()
    if isinstance(values, str):
        _deprecate(f"{keyword}={values!r}", f"{keyword}=[{values!r}]")
    return values


def _deprecate(given: str, remedy: str) -> None:
    warn(f"{given} is deprecated; write {remedy}.", DeprecationWarning)


def warn(text: str, category: type[Warning]) -> None:
    """Warn of a line of the project's own code: the innermost one that is not the package's."""
    package, level, frame = __name__.partition(".")[0], 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
