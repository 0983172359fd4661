"""The class with which Django code publishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from asgiref.sync import sync_to_async

from channels_ws4redis.protocol.names import AUDIENCES, BROADCAST, as_facility, channel_name
from channels_ws4redis.redis_store import RedisStore, own_identities
from channels_ws4redis.store.commands import fetch_command
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.runner import get_runner, run
from channels_ws4redis.store.scripts import Result

__all__ = ["RedisPublisher"]


class RedisPublisher(RedisStore):
    """Publishes to a facility's audiences; nothing is connected until a message is sent.

    :param facility: the part of the socket's URL path after ``WEBSOCKET_URL``.
    :param broadcast: True to reach everyone who listens on the facility.
    :param users: user names or ``User`` objects; ``SELF`` is the user of ``request``.
    :param groups: auth group names or ``Group`` objects; ``SELF`` means all of the user's.
    :param sessions: session keys; ``SELF`` is the session of ``request``.
    :param request: the HTTP request that ``SELF`` refers to.
    :raises ValueError: if an argument names nobody by mistake.

    Nothing is published for a user that does not exist (an anonymous one), nor for a session that
    has not been saved.
    """

    def __init__(self, **kwargs: Any) -> None:
        # The client is passed on although it is the default: the __init__ of a mixin may insist on
        # a connection, as the one of legacy did.
        super().__init__(get_client())
        self._publishers.update(self._get_message_channels(**kwargs))

    def pipeline_publish_message(
        self, message: Any, expire: int | None = None, transaction: bool = True
    ) -> None:
        """Publish a message; the same as `publish_message`, which is one round trip anyway.

        :param transaction: ignored; storing and publishing are always one step.
        """
        self.publish_message(message, expire)

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
        # In a thread, as finding out who asks may load the session and the user from the database.
        names = await sync_to_async(self._stored_names)(request, facility, audience)
        return _first(await get_runner().run([fetch_command(name) for name in names]))

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
