"""Making orders out of what a call names, and sending them. Private."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from django.db.transaction import TransactionManagementError

from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.fanout.hearing import channel, control_layer
from channels_ws4redis.handshake.identity import account_mark
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.names import SelfType, as_facility, identities
from channels_ws4redis.protocol.orders import (
    EXPIRE,
    HISTORY,
    LOOK_AT_ALL,
    Action,
    Order,
    Trait,
    mark,
)
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.publish.committing import after_commit
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.commands import Publication
from channels_ws4redis.store.process import get_client, this_process
from channels_ws4redis.store.runner import look_again

logger = logging.getLogger(__name__)

#: Marks of one kind in one order; more of them go into several orders.
AT_ONCE = 500

#: Seconds between attempts to give orders while Redis is away.
RETRY_INTERVAL = 0.5

#: Bytes that RFC 6455 has room for in a close frame, beside the code.
MAX_REASON = 123


def make_orders(
    action: Action,
    users: Any = None,
    sessions: Any = None,
    groups: Any = None,
    facility: Any = None,
    code: int = codes.REVOKED,
    reason: str = "",
) -> list[Order]:
    """Return the orders for a call; there are none if an argument names nobody.

    Takes and raises what `channels_ws4redis.control.disconnect` does.
    """
    _require_closing(code, reason)
    if action is Action.UNSUBSCRIBE and groups is None:
        raise TypeError("unsubscribe() takes channels of auth groups away; name some by groups=.")
    selectors = []
    if users is not None:
        selectors.append(_marks_of_users(users))
    for values, keyword, trait in (
        (sessions, "sessions", Trait.SESSION),
        (groups, "groups", Trait.GROUP),
    ):
        if values is not None:
            selectors.append([mark(trait, name) for name in _names(values, keyword)])
    if facility is not None:
        selectors.append([mark(Trait.FACILITY, as_facility(facility))])
    if not selectors:
        raise TypeError(
            f"{action.value}() has to be told which sockets are meant, by at least one of users=, "
            "sessions=, groups= and facility=."
        )
    return [Order(action, part, code, reason) for part in _parts(selectors)]


def _parts(selectors: Sequence[list[bytes]]) -> list[tuple[frozenset[bytes], ...]]:
    """Return selectors with few marks each, which together choose the same sockets."""
    parts: list[tuple[frozenset[bytes], ...]] = [()]
    for marks in selectors:
        chunks = [frozenset(marks[at : at + AT_ONCE]) for at in range(0, len(marks), AT_ONCE)]
        parts = [(*part, chunk) for part in parts for chunk in chunks]
    return parts


def _marks_of_users(users: Any) -> list[bytes]:
    single = isinstance(users, str) or hasattr(users, "get_username")
    many = isinstance(users, Iterable) and not isinstance(users, bytes | bytearray | dict)
    marks, others = [], []
    for user in users if many and not single else [users]:
        found = account_mark(user)
        if found is None:
            others.append(user)
        else:
            marks.append(found)
    return [*marks, *(mark(Trait.USER, name) for name in _names(others, "users"))]


def _names(values: Any, keyword: str) -> list[str]:
    found = identities(values, keyword)
    if any(isinstance(name, SelfType) for name in found):
        raise ValueError(f"{keyword} contains SELF, which stands for nobody here; pass a name.")
    return [name for name in found if isinstance(name, str)]


def _require_closing(code: Any, reason: Any) -> None:
    if isinstance(code, bool) or not isinstance(code, int) or not codes.may_be_chosen(code):
        raise ValueError(
            f"code={code!r} is no close code that may be chosen; use 1000, 1013, or one from 3000 "
            "to 4999. The browser client stays away after one from 4500 on."
        )
    if not isinstance(reason, str) or len(reason.encode(errors="replace")) > MAX_REASON:
        raise ValueError(
            f"reason={reason!r:.200} is no text of at most {MAX_REASON} bytes, which is what a "
            "close frame has room for."
        )


def send(orders: Iterable[Order]) -> None:
    """Give orders to all processes.

    :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
    """
    for order in orders:
        backend_named(control_layer()).publish(_publication(order))


async def asend(orders: Iterable[Order]) -> None:
    """Give orders to all processes; asyncio twin of `send`."""
    for order in orders:
        await backend_named(control_layer()).apublish(_publication(order))


def send_after_commit(orders: Sequence[Order]) -> None:
    """Give orders once all open transactions are committed; what goes wrong then is logged.

    If Redis cannot be reached then, they are given when it can.
    """
    if not orders:
        return
    try:
        after_commit(partial(_try_to_send, orders))
    except TransactionManagementError:
        # The project commits by hand, of which Django does not tell. It should do so soon.
        _debts().add(orders)


def _publication(order: Order) -> Publication:
    return Publication([channel()], order.encode(), 0, history=HISTORY, history_expire=EXPIRE)


def _try_to_send(orders: Sequence[Order]) -> None:
    try:
        send(orders)
    except UNREACHABLE as error:
        logger.error("Sockets are told later that they may hear less: %s", reason_of(error))
        _debts().add(orders)
    except Exception:
        logger.exception("Sockets could not be told that they may hear less")


class _Debts:
    """Orders that could not be given, and a thread that goes on trying while there are any."""

    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._lock = threading.Lock()

    def add(self, orders: Sequence[Order]) -> None:
        """Have orders given as soon as that is possible."""
        with self._lock:
            is_first = not self._orders
            self._orders += orders
            if len(self._orders) > HISTORY:  # nobody would find them all
                self._orders[:] = [LOOK_AT_ALL]
        if is_first:
            threading.Thread(target=self._pay, name="ws4redis-orders", daemon=True).start()

    def _pay(self) -> None:
        left = True
        while left:
            time.sleep(RETRY_INTERVAL)
            due = list(self._orders)
            try:
                look_again(get_client())
                send(due)
            except UNREACHABLE:
                continue
            except Exception:
                logger.exception("Sockets could not be told that they may hear less")
            with self._lock:
                self._orders = [order for order in self._orders if order not in due]
                left = bool(self._orders)


def _debts() -> _Debts:
    return this_process().get(_Debts, _Debts)
