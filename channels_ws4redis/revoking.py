"""What an open socket may still use, when an order or the database says so. Private."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import redis

from channels_ws4redis.handshake.admission import REFUSALS, admit
from channels_ws4redis.handshake.identity import has_renewable, is_somebody_else, marks_of, renewed
from channels_ws4redis.handshake.threads import BusyError
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.names import auth_group_of
from channels_ws4redis.protocol.orders import Order, Trait, mark
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.redis_store import as_text
from channels_ws4redis.subscriber import SubscriberHooks

logger = logging.getLogger(__name__)

#: Seconds that finding out again may take before the socket is closed and has to come back.
PATIENCE: Final = 10.0


class Rights(NamedTuple):
    """What a socket may use at a moment: names of channels."""

    hears: frozenset[str]
    #: Those to which its client publishes.
    publishes: frozenset[str]

    @classmethod
    def of(cls, hooks: SubscriberHooks) -> Rights:
        """Return the rights of a socket, as its subscriber has them now."""
        publishes = map(as_text, hooks.subscriber._publishers)
        return cls(frozenset(map(str, hooks.channels)), frozenset(publishes))

    def without(self, channels: Iterable[str]) -> Rights:
        """Return the rights without those on some channels."""
        gone = frozenset(channels)
        return Rights(self.hears - gone, self.publishes - gone)

    def __bool__(self) -> bool:
        return bool(self.hears or self.publishes)

    def limit(self, hooks: SubscriberHooks) -> None:
        """Have a subscriber give up what is not among these rights."""
        subscriber = hooks.subscriber
        subscriber._publishers = {
            name for name in subscriber._publishers if as_text(name) in self.publishes
        }
        gone = [name for name in hooks.channels if name not in self.hears]
        if gone:
            subscriber._subscription.unsubscribe(*gone)


class Revoked(NamedTuple):
    """Why a socket has to be closed."""

    code: int
    #: For the log; nothing is logged if it is empty.
    why: Exception | str = ""
    #: For the client.
    reason: str = ""


def named_channels(order: Order, hooks: SubscriberHooks) -> set[str]:
    """Return the channels of a socket that belong to auth groups which an order names."""
    rights = Rights.of(hooks)
    groups = {name: auth_group_of(hooks.prefix, name) for name in rights.hears | rights.publishes}
    return {
        name
        for name, group in groups.items()
        if group is not None and order.names(mark(Trait.GROUP, group))
    }


async def ask_again(scope: dict[str, Any], hooks: SubscriberHooks, marks: bytes) -> bytes | Revoked:
    """Find out anew who a socket is, and have its subscriber give up what it may not use any more.

    Nothing is added. The subscriber's own changes are followed no more until somebody does.

    :param marks: of the socket until now.
    :returns: the marks of the socket now, or why it has to be closed.
    """
    before, calls = Rights.of(hooks), hooks.calls
    hooks.follow(None)
    calls.failed = False
    try:
        async with asyncio.timeout(PATIENCE):
            if has_renewable(scope):
                scope = await calls.look_up(renewed, scope)
            admission = await admit(scope, hooks, calls, check_origin=False)
    except REFUSALS:
        return Revoked(codes.REVOKED)
    except (BusyError, TimeoutError, redis.exceptions.RedisError, OSError) as error:
        return Revoked(codes.TRY_AGAIN_LATER, error)
    except Exception:
        logger.exception("It cannot be told what the socket %s may use", shown(scope["path"]))
        return Revoked(codes.TRY_AGAIN_LATER)
    finally:
        before.limit(hooks)
    if calls.failed:  # which says nothing about what the socket may use
        return Revoked(codes.TRY_AGAIN_LATER)
    now = marks_of(admission.request, hooks.prefix, hooks.channels)
    if is_somebody_else(marks, now) or (before and not Rights.of(hooks)):
        return Revoked(codes.REVOKED)
    return now
