"""What an open socket may still use, when an order or the database says so. Private."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import redis

from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.handshake.admission import admit
from channels_ws4redis.handshake.granting import PolicyFailedError
from channels_ws4redis.handshake.hooks import REFUSALS
from channels_ws4redis.handshake.identity import has_renewable, is_somebody_else, marks_of, renewed
from channels_ws4redis.handshake.refusals import BusyError, few_lines
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.names import auth_group_of
from channels_ws4redis.protocol.orders import Action, Order, Trait, mark
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.redis_store import as_text
from channels_ws4redis.standing import Standing
from channels_ws4redis.subscriber_hooks import SubscriberHooks

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

#: Seconds that finding out again may take before the socket is closed and has to come back.
PATIENCE: Final = 10.0

#: What says nothing about what a socket may use.
UNSURE = (PolicyFailedError, BusyError, TimeoutError, redis.exceptions.RedisError, OSError)


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


async def ask_again(hooks: SubscriberHooks, marks: bytes) -> bytes | Revoked:
    """Find out anew who a socket is, and have its subscriber give up what it may not use any more.

    Nothing is added. The subscriber's own changes are followed no more until somebody does.

    :param marks: of the socket until now.
    :returns: the marks of the socket now, or why it has to be closed.
    """
    before, calls = Rights.of(hooks), hooks.calls
    scope = calls.scope
    hooks.follow(None)
    calls.failed = False
    try:
        async with asyncio.timeout(PATIENCE):
            if has_renewable(scope):
                scope = await calls.look_up(renewed, scope)
            admission = await admit(scope, hooks, calls, check_origin=False)
    except UNSURE as error:
        return Revoked(codes.TRY_AGAIN_LATER, error)
    except REFUSALS:
        return Revoked(codes.REVOKED)
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


class End(Protocol):
    """Has a socket closed."""

    def __call__(self, code: int, why: Exception | str, *, reason: str = "") -> None:
        """Close it with a code; `why` is for the log, and the reason for the client."""


class Revocable(ABC):
    """Does what an open socket is ordered to. It is a part of `OpenSocket`, and has its fields."""

    __slots__ = ()

    _end: End
    _fanout: FanOut
    _outbox: Outbox
    _socket: Socket
    _standing: Standing
    _subscriber: SubscriberHooks

    @abstractmethod
    def stop(self) -> None:
        """Send nothing any more, and leave all groups."""

    @abstractmethod
    def _on_change(self) -> None:
        """Follow a change of the subscriber's channels."""

    def obey(self, order: Order) -> None:
        """Close the socket, or leave the channels of the auth groups that an order names."""
        if order.action is Action.DISCONNECT:
            self._revoke(Revoked(order.code, reason=order.reason))
            return
        if self._standing.looked_at:  # and may be about to find what the order takes away
            self._revoke(Revoked(codes.TRY_AGAIN_LATER))
            return
        gone = named_channels(order, self._subscriber)
        left = Rights.of(self._subscriber).without(gone)
        if gone and not left:
            self._revoke(Revoked(order.code, reason=order.reason))
        elif gone:
            left.limit(self._subscriber)
            self._give_up(gone)

    def hold(self, held: bool) -> None:
        """Deliver nothing, and publish nothing of the client, while it is doubtful what it may use.

        What a hook sends of what is stored cannot be held back, so that its client has to come
        back.
        """
        if held and self._is_replayed_by_hook:
            self._revoke(Revoked(codes.TRY_AGAIN_LATER))
        elif held:
            self._standing.doubt()
            self._socket.pause()
        elif self._standing.doubtful:
            self._socket.resume()
            self._standing.settle()

    @property
    def _is_replayed_by_hook(self) -> bool:
        return self._socket.started and not self._socket.replayed

    async def look_again(self) -> None:
        """Find out what the socket may still use, and give up the rest."""
        if self._outbox.closed:
            return
        before, control = self._subscriber.channels, get_control()
        self._standing.looked_at = True
        try:
            found = await ask_again(self._subscriber, control.marks_of(self))
        finally:
            self._standing.looked_at = False
        if isinstance(found, Revoked):
            self._revoke(found)
            return
        control.renew(self, found)
        self._subscriber.follow(self._on_change)
        gone = set(before).difference(self._subscriber.channels)
        if gone:
            self._give_up(gone)
            self._on_change()

    def _give_up(self, gone: set[str]) -> None:
        """Hear some channels no more, from this moment on, nor what has been published there."""
        if len(self._outbox) or self._is_replayed_by_hook:
            # What waits may be of these channels. The client comes back, and recovers the rest.
            self._revoke(Revoked(codes.TRY_AGAIN_LATER))
            return
        self._fanout.leave(self._socket, gone)
        self._socket.drop(gone)

    def _revoke(self, revoked: Revoked) -> None:
        self._standing.barred = True
        self.stop()
        self._end(revoked.code, revoked.why, reason=revoked.reason)
