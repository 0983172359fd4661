"""Cutting off sockets, and looking at them again, from any process."""

from __future__ import annotations

from typing import Any

from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action
from channels_ws4redis.publish.ordering import asend, make_orders, send, send_after_commit

__all__ = [
    "REVOKED",
    "adisconnect",
    "arefresh",
    "aunsubscribe",
    "disconnect",
    "refresh",
    "unsubscribe",
]

#: The close code of a socket that may not hear any more what it has heard.
REVOKED = codes.REVOKED


def disconnect(
    *,
    users: Any = None,
    sessions: Any = None,
    groups: Any = None,
    facility: Any = None,
    code: int = REVOKED,
    reason: str = "",
) -> None:
    """Close sockets, in all processes; what waits for them is not sent any more.

    A socket is chosen by all arguments that are given, and at least one has to be. Who is named by
    ``users``, ``sessions`` and ``groups`` is understood as by ``RedisPublisher``. A ``User`` object
    is found by its primary key, a name by the name that the user had when the socket connected.

    :param users: user names or ``User`` objects.
    :param sessions: session keys or sessions.
    :param groups: auth group names or ``Group`` objects: whose members the users were when the
        sockets connected, or whose channels the sockets hear.
    :param facility: the part of the socket's URL path after ``WEBSOCKET_URL``.
    :param code: the close code: 1000, 1013, or one from 3000 to 4999. The browser client stays away
        after one from 4500 on, and comes back after the others.
    :param reason: told to the client; at most 123 bytes as UTF-8.
    :raises TypeError: if nothing is chosen.
    :raises ValueError: if an argument can only be a mistake.
    :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
    """
    send(make_orders(Action.DISCONNECT, users, sessions, groups, facility, code, reason))


async def adisconnect(
    *,
    users: Any = None,
    sessions: Any = None,
    groups: Any = None,
    facility: Any = None,
    code: int = REVOKED,
    reason: str = "",
) -> None:
    """Close sockets; asyncio twin of `disconnect`."""
    await asend(make_orders(Action.DISCONNECT, users, sessions, groups, facility, code, reason))


def unsubscribe(
    *,
    groups: Any,
    users: Any = None,
    sessions: Any = None,
    facility: Any = None,
    code: int = REVOKED,
    reason: str = "",
) -> None:
    """Have sockets leave the channels of auth groups, and publish there no more.

    The sockets are chosen as by `disconnect`. A socket that hears nothing else is closed with the
    code. One whose client has not taken yet all that was sent to it is closed with 1013, as it
    could not be told apart what of that it may still have. It comes back.
    """
    send(make_orders(Action.UNSUBSCRIBE, users, sessions, groups, facility, code, reason))


async def aunsubscribe(
    *,
    groups: Any,
    users: Any = None,
    sessions: Any = None,
    facility: Any = None,
    code: int = REVOKED,
    reason: str = "",
) -> None:
    """Have sockets leave the channels of auth groups; asyncio twin of `unsubscribe`."""
    await asend(make_orders(Action.UNSUBSCRIBE, users, sessions, groups, facility, code, reason))


def refresh(
    *, users: Any = None, sessions: Any = None, groups: Any = None, facility: Any = None
) -> None:
    """Find out again who sockets are and what they may use, once open transactions are committed.

    The sockets are chosen as by `disconnect`. A socket keeps what it would still get if it
    connected now, and gets nothing new. It is closed with `REVOKED` if that is nothing, or if it
    belongs to another user or session now. If a transaction is rolled back, nothing happens.
    Whatever goes wrong after the commit is logged and not raised. If Redis cannot be reached then,
    the order is given when it can.
    """
    send_after_commit(make_orders(Action.REFRESH, users, sessions, groups, facility))


async def arefresh(
    *, users: Any = None, sessions: Any = None, groups: Any = None, facility: Any = None
) -> None:
    """Find out again what sockets may use; asyncio twin of `refresh`, which waits for no commit."""
    await asend(make_orders(Action.REFRESH, users, sessions, groups, facility))
