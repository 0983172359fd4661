"""Admission: finding out, during the handshake, who a socket is and what it may use.

Every step fails closed: a hook that raises an exception, or returns what makes no sense, logs
nobody in and grants nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from django.core.exceptions import PermissionDenied

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake import remarks
from channels_ws4redis.handshake.granting import grant, policy_of
from channels_ws4redis.handshake.hooks import ENDS, Calls
from channels_ws4redis.handshake.members import bring_up_to_date
from channels_ws4redis.handshake.paths import require_plain_path
from channels_ws4redis.handshake.policies import NO_OPTIONS, Options
from channels_ws4redis.handshake.refusals import few_lines
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.handshake.sessions import authenticate_when_asked, drop_forged_session
from channels_ws4redis.handshake.together import aauthenticate
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.protocol.names import channel_labels, is_public, parse_flags
from channels_ws4redis.protocol.texts import shown

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)


class Subscriber(Protocol):
    """What admission asks of a socket's subscriber."""

    @property
    def flags(self) -> Collection[str]:
        """The flags that the subscriber knows, ``echo`` left out."""

    @property
    def publishing(self) -> Collection[str]:
        """Those of its flags by which clients publish."""

    @property
    def is_stock(self) -> bool:
        """True for the package's own class, which looks at no user to name a broadcast."""

    @property
    def prefix(self) -> str:
        """What the names of its channels begin with."""

    @property
    def channels(self) -> Sequence[str]:
        """The names of the channels it listens on."""

    async def set_channels(
        self, request: WebSocketRequest, flags: Collection[str], may_block: bool
    ) -> None:
        """Set its channels to those that flags stand for; in a thread if that may block."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the handshake has found out about a socket that is let in."""

    #: The Django request of the handshake. Session and user are set if anything looks at them.
    request: WebSocketRequest
    #: The names of the channels that the socket hears.
    channels: Sequence[str]
    #: Whether the client gets back what it has published itself.
    echo: bool
    #: One of the subprotocols that the client has offered; None if it has offered none.
    subprotocol: str | None
    #: What the client calls each channel, for the package's own protocol; None for raw frames.
    labels: dict[str, str] | None
    #: How the messages of its facility are treated.
    options: Options = NO_OPTIONS


async def _wait_for_nothing() -> None:
    pass


async def admit(
    scope: dict[str, Any],
    subscriber: Subscriber,
    calls: Calls,
    before_asking: Callable[[], Awaitable[None]] = _wait_for_nothing,
) -> Admission:
    """Find out who a socket is, and let it in with the channels that it may use.

    :param scope: what the server says about the socket.
    :param subscriber: the subscriber of this socket; it is told its channels.
    :param calls: run what may block for this socket.
    :param before_asking: awaited before anybody asks who the socket is.
    :raises PermissionDenied: if the project refuses the socket; or Channels' ``DenyConnection``.
    :raises channels_ws4redis.handshake.refusals.BusyError: if no thread is free in time.
    :raises redis.exceptions.RedisError: if a method of the subscriber asks Redis in vain.
    """
    flags = parse_flags(scope.get("query_string", b""), subscriber.flags)
    request = WebSocketRequest(scope, calls.age)
    _require_admissible(request)
    remarks.tell_of_unknown(request.path, flags.unknown, subscriber.flags)
    policy = policy_of(request)
    await before_asking()
    request = await _identify(scope, request, flags.known, subscriber, calls)
    calls.know(request.user)
    # A hook or a middleware may have set a lazy user, who is loaded when somebody looks at it, and
    # a session that nobody has looked at yet.
    lazy = settings.WS4REDIS_PROCESS_REQUEST is not None or _is_identified(scope)
    if lazy and request.session is not None:
        await _drop_forged_session(request, flags.known, subscriber, calls)
    granted = await grant(request, flags.known, subscriber.publishing, subscriber.flags, calls)
    remarks.tell_of_ungranted(request.path, flags.known, granted.flags, policy)
    await _set_channels(request, granted.flags, subscriber, lazy, calls)
    channels = subscriber.channels
    if subscriber.is_stock:
        remarks.tell_of_unheard(request.path, granted.flags, subscriber.prefix, channels)
    subprotocol = choose_subprotocol(scope)
    labels = channel_labels(subscriber.prefix, channels) if subprotocol == SUBPROTOCOL else None
    return Admission(request, channels, flags.echo, subprotocol, labels, granted.options)


def _require_admissible(request: WebSocketRequest) -> None:
    """Refuse a socket that nobody may open, whoever it is."""
    # The path as it came: Django 4.2 puts the slashes right in that of the request.
    require_plain_path(request.scope, request.facility)
    size, limit = len(request.facility.encode()), settings.WS4REDIS_MAX_FACILITY
    if size > limit:
        raise PermissionDenied(
            f"its facility has {size} bytes; WS4REDIS_MAX_FACILITY allows {limit}"
        )


async def _identify(
    scope: dict[str, Any],
    request: WebSocketRequest,
    flags: Collection[str],
    subscriber: Subscriber,
    calls: Calls,
) -> WebSocketRequest:
    """Return the request of a socket with its session and user, or another one without either.

    They come from WS4REDIS_PROCESS_REQUEST if that is set, else from a middleware that the project
    has put around the router, else from the session cookie.
    """
    hook = settings.WS4REDIS_PROCESS_REQUEST
    if hook is not None:
        try:
            await calls.hook(hook, request)
        except ENDS:
            raise
        except Exception:
            logger.exception(
                "WS4REDIS_PROCESS_REQUEST failed for the socket %s; nobody is logged in",
                shown(request.path),
            )
            return WebSocketRequest({**scope, "user": None, "session": None})
        return request
    if _is_identified(scope):
        return request
    if _asks(subscriber) or not is_public(flags):
        await aauthenticate(request, calls)
    else:
        # Only a policy may look at the user. If none does, the database need not be asked, and it
        # stays unknown whether there is a session of the key that the client has sent.
        authenticate_when_asked(request)
    return request


async def _drop_forged_session(
    request: WebSocketRequest, flags: Collection[str], subscriber: Subscriber, calls: Calls
) -> None:
    """Drop a session that is made up, if anything may look at it."""
    if _asks(subscriber) or policy_of(request) is not None or not is_public(flags):
        await calls.look_up(drop_forged_session, request)


async def _set_channels(
    request: WebSocketRequest,
    flags: Collection[str],
    subscriber: Subscriber,
    lazy: bool,
    calls: Calls,
) -> None:
    """Have the subscriber set its channels, with the auth groups of now."""
    await bring_up_to_date(request, flags, subscriber.is_stock, calls)
    await subscriber.set_channels(request, flags, may_block=lazy and not is_public(flags))


def _asks(subscriber: Subscriber) -> bool:
    """Tell whether code of the project may look at the user, whatever the socket asks for."""
    return not subscriber.is_stock or settings.WS4REDIS_ALLOWED_CHANNELS is not None


def choose_subprotocol(scope: dict[str, Any]) -> str | None:
    """Return the package's own protocol if a client offers it, else the first one, else None."""
    offered: Sequence[str] = scope.get("subprotocols") or ()
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    return offered[0] if offered else None


def _is_identified(scope: dict[str, Any]) -> bool:
    """Tell whether a middleware of the project has found out who the socket is."""
    return "user" in scope or "session" in scope
