"""Admission: finding out, during the handshake, who a socket is and what it may use.

Every step fails closed: a hook that raises an exception, or returns what makes no sense, logs
nobody in and grants nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from channels.exceptions import DenyConnection
from django.core.exceptions import PermissionDenied

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.members import bring_up_to_date
from channels_ws4redis.handshake.origins import origin_allowed
from channels_ws4redis.handshake.requests import (
    WebSocketRequest,
    authenticate,
    drop_forged_session,
)
from channels_ws4redis.handshake.threads import BusyError
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.protocol.names import channel_labels, is_public, parse_flags
from channels_ws4redis.protocol.texts import shown

logger = logging.getLogger(__name__)

#: What a hook, or an overridden method of the subscriber, raises to refuse a socket.
REFUSALS = (PermissionDenied, DenyConnection)

#: What says nothing about the hook that raises it, and ends the handshake.
_ENDS = (*REFUSALS, BusyError)


class Subscriber(Protocol):
    """What admission asks of a socket's subscriber."""

    @property
    def flags(self) -> Collection[str]:
        """The flags that the subscriber knows, ``echo`` left out."""

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


async def _wait_for_nothing() -> None:
    pass


async def admit(
    scope: dict[str, Any],
    subscriber: Subscriber,
    calls: Calls,
    check_origin: bool,
    before_asking: Callable[[], Awaitable[None]] = _wait_for_nothing,
) -> Admission:
    """Find out who a socket is, and let it in with the channels that it may use.

    :param scope: what the server says about the socket.
    :param subscriber: the subscriber of this socket; it is told its channels.
    :param calls: run what may block for this socket.
    :param check_origin: refuse the socket if a page of a foreign origin opens it.
    :param before_asking: awaited before anybody asks who the socket is.
    :raises django.core.exceptions.PermissionDenied: if the project refuses the socket.
    :raises channels.exceptions.DenyConnection: the same.
    :raises channels_ws4redis.handshake.threads.BusyError: if no thread is free in time.
    :raises redis.exceptions.RedisError: if a method of the subscriber asks Redis in vain.
    """
    flags = parse_flags(scope.get("query_string", b""), subscriber.flags)
    request = WebSocketRequest(scope)
    _require_admissible(request, check_origin)
    await before_asking()
    request = await _identify(scope, request, flags.channels, subscriber, calls)
    calls.know(request.user)
    # A hook or a middleware may have set a lazy user, who is loaded when somebody looks at it, and
    # a session that nobody has looked at yet.
    lazy = settings.WS4REDIS_PROCESS_REQUEST is not None or _is_identified(scope)
    asks = not subscriber.is_stock or settings.WS4REDIS_ALLOWED_CHANNELS is not None
    if lazy and request.session is not None and (asks or not is_public(flags.channels)):
        await calls.look_up(drop_forged_session, request)
    granted = await _grant(request, flags.channels, calls)
    await bring_up_to_date(request, granted, subscriber.is_stock, calls)
    await subscriber.set_channels(request, granted, may_block=lazy and not is_public(granted))
    channels = subscriber.channels
    subprotocol = _choose_subprotocol(scope.get("subprotocols") or ())
    speaks_protocol = subprotocol == SUBPROTOCOL
    labels = channel_labels(subscriber.prefix, channels) if speaks_protocol else None
    return Admission(request, channels, flags.echo, subprotocol, labels)


def _require_admissible(request: WebSocketRequest, check_origin: bool) -> None:
    """Refuse a socket that nobody may open, whoever it is."""
    if check_origin and not origin_allowed(request):
        raise PermissionDenied(
            f"a page of the foreign origin {shown(request.META['HTTP_ORIGIN'])} opens it; name the "
            "origin in WS4REDIS_ALLOWED_ORIGINS if it may"
        )
    # The router does not care about leading slashes. A hook or a proxy that looks at the path does.
    path = request.scope["path"]  # as it came: Django 4.2 puts its slashes right
    if not re.match("/(?!/)", path):
        raise PermissionDenied(
            "its path does not begin with one slash, or uvicorn's --root-path ends with one"
        )
    root_path = request.scope.get("root_path", "").rstrip("/")
    if not re.match("/(?!/)", path.removeprefix(root_path)):
        raise PermissionDenied(
            "its path does not go on with one slash after the root path, or uvicorn's --root-path "
            "ends with one"
        )
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
        except _ENDS:
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
    if subscriber.is_stock and settings.WS4REDIS_ALLOWED_CHANNELS is None and is_public(flags):
        return request  # nothing looks at the user, and the database need not be asked
    await calls.look_up(authenticate, request)
    return request


async def _grant(request: WebSocketRequest, flags: list[str], calls: Calls) -> list[str]:
    """Return the flags that WS4REDIS_ALLOWED_CHANNELS grants, which may be more than these."""
    hook = settings.WS4REDIS_ALLOWED_CHANNELS
    if hook is None:
        return flags
    try:
        granted = await calls.hook(hook, request, list(flags))
        # A filter, a QuerySet or a list of the project's own kind runs code only now, which may
        # block or end.
        plain = type(granted) in {list, tuple, set, frozenset}
        return _as_flags(granted) if plain else await calls.run(_as_flags, granted)
    except _ENDS:
        raise
    except Exception:
        logger.exception(
            "WS4REDIS_ALLOWED_CHANNELS failed for the socket %s; no channel is granted",
            shown(request.path),
        )
        return []


def _as_flags(granted: Any) -> list[str]:
    # A mapping may have granted what it maps to False.
    if not isinstance(granted, Iterable) or isinstance(granted, str | bytes | Mapping):
        raise TypeError(f"it returned {granted!r} instead of a list of channels")
    # A hook may have written {"subscribe-user", is_staff and "publish-user"}, False among them.
    return [flag for flag in granted if isinstance(flag, str)]


def _choose_subprotocol(offered: Sequence[str]) -> str | None:
    """Return the package's own protocol if a client offers it, else the first one, else None."""
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    return offered[0] if offered else None


def _is_identified(scope: dict[str, Any]) -> bool:
    """Tell whether a middleware of the project has found out who the socket is."""
    return "user" in scope or "session" in scope
