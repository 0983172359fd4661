"""What an open subscription may still use, when an order or the database says so. Private."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable
from typing import Final, NamedTuple

from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.doubts import Doubt
from channels_ws4redis.fanout.groups import FanOut
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.handshake.admission import admit
from channels_ws4redis.handshake.facts import Claim, claim_of
from channels_ws4redis.handshake.granting import PolicyFailedError
from channels_ws4redis.handshake.hooks import REFUSALS
from channels_ws4redis.handshake.identity import (
    had_user,
    has_renewable,
    has_session,
    is_renamed,
    marks_of,
    renewed,
    what_changed,
)
from channels_ws4redis.handshake.refusals import BusyError, few_lines, tell
from channels_ws4redis.handshake.sessions import are_in_cookies
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.names import auth_group_of
from channels_ws4redis.protocol.orders import Action, Order, Trait, mark
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.serving.standing import Standing
from channels_ws4redis.serving.subscriber_hooks import SubscriberHooks
from channels_ws4redis.serving.verdicts import Verdict
from channels_ws4redis.store.clients import OF_REDIS
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

#: Seconds that finding out again may take, for one socket or for many at once. One that may have
#: missed an order is closed then, and has to come back.
PATIENCE: Final = 10.0

#: What says nothing about what a socket may use.
UNSURE = (PolicyFailedError, BusyError, TimeoutError, *OF_REDIS)


class Unknown(NamedTuple):
    """That it cannot be found out what a socket may use."""

    #: For the log, unless it has told of it already.
    error: Exception | str = ""


def named_channels(order: Order, hooks: SubscriberHooks) -> set[str]:
    """Return the channels of a socket that belong to auth groups which an order names."""
    return {
        name
        for name, group in _auth_groups(hooks).items()
        if group is not None and order.names(mark(Trait.GROUP, group))
    }


def _auth_groups(hooks: SubscriberHooks) -> dict[str, str | None]:
    """Return the auth group of each channel of a socket; None for one of another audience."""
    rights = hooks.rights
    return {name: auth_group_of(hooks.prefix, name) for name in rights.hears | rights.publishes}


async def ask_again(
    hooks: SubscriberHooks, marks: bytes, doubt: Doubt
) -> bytes | Verdict | Unknown:
    """Find out anew who a socket is, and have its subscriber give up what it may not use any more.

    Nothing is added.

    :param marks: of the socket until now.
    :param doubt: if the socket is only due, it keeps what its subscriber has added since the last
        admission, or adds meanwhile: an admission does not tell of that.
    :returns: the marks of the socket now, if it may stay; else how it ends.
    """
    calls, scope = hooks.calls, hooks.calls.scope
    hooks.keeps_added = doubt is Doubt.DUE
    had = hooks.rights.within(hooks.granted) if hooks.keeps_added else hooks.rights
    calls.failed = False
    try:
        async with asyncio.timeout(PATIENCE):
            if has_renewable(scope):
                scope = await calls.look_up(renewed, scope)
            admission = await admit(scope, hooks, calls)
    except UNSURE as error:
        return Unknown(error)
    except REFUSALS as error:
        # A hook that has failed may be why: nobody is logged in then, and the next one refuses.
        return Unknown() if calls.failed else Verdict(codes.REVOKED, error)
    except Exception:
        logger.exception("It cannot be told what the socket %s may use", shown(scope["path"]))
        return Unknown()
    if calls.failed:
        return Unknown()
    now = marks_of(admission.request, hooks.prefix, hooks.channels)
    if changed := what_changed(marks, now):
        return Verdict(_code_for_another(marks, now), changed)
    has_lost_all = had and not hooks.rights.within(hooks.granted)
    return Verdict(codes.REVOKED, "it is granted nothing that it had") if has_lost_all else now


def _code_for_another(marks: bytes, now: bytes) -> int:
    """Return the code that closes a socket whose session or user has changed.

    Whoever was not logged in has lost no more than the channels of the session, and comes back for
    the others; so does a user who has another name now, which the channels have too. A session that
    is too old and a cookie itself may have a newer one in the browser.
    """
    has_other_cookie = not has_session(now) and are_in_cookies()
    is_gone = had_user(marks) and not is_renamed(marks, now) and not has_other_cookie
    return codes.REVOKED if is_gone else codes.TRY_AGAIN_LATER


class Revocable(ABC):
    """Does what a subscription is ordered to. It is a part of `OpenSubscription`.

    Orders, and looks at what it may use, treat each subscription as a socket of its own.
    """

    __slots__ = ()

    _fanout: FanOut
    _socket: Socket
    _standing: Standing
    _subscriber: SubscriberHooks

    @abstractmethod
    def end(
        self, code: int, why: Exception | str = "", reason: str = "", at_once: bool = False
    ) -> None:
        """Have the subscription end; `why` is for the log, and the reason for the client.

        :param at_once: whether nothing is to be sent any more, nor what waits.
        """

    @abstractmethod
    def _on_change(self) -> None:
        """Follow a change of the subscriber's channels."""

    @property
    def whom(self) -> Hashable:
        """The user of the socket, or the address of its client."""
        return self._subscriber.calls.whom

    def obey(self, order: Order) -> None:
        """Close the socket, or leave the channels of the auth groups that an order names."""
        if order.action is Action.DISCONNECT:
            self._revoke(Verdict(order.code, reason=order.reason))
            return
        if self._standing.looked_at:  # and may be about to find what the order takes away
            self._revoke(Verdict(codes.TRY_AGAIN_LATER))
            return
        gone = named_channels(order, self._subscriber)
        left = self._subscriber.rights.without(gone)
        if gone and not left:
            self._revoke(Verdict(order.code, reason=order.reason))
        elif gone:
            self._subscriber.use(left)
            self._give_up(gone)
            self._on_change()  # one that has been at rest tells nobody

    def hold(self, held: bool) -> None:
        """Deliver nothing, and publish nothing of the client, while it is doubtful what it may use.

        What a hook sends of what is stored cannot be held back, so that its client has to come
        back.
        """
        if held and self._is_replayed_by_hook:
            self._revoke(Verdict(codes.TRY_AGAIN_LATER))
        elif held:
            self._standing.doubt()
            self._socket.pause()
        elif self._standing.doubtful:
            self._socket.resume()
            self._standing.settle()

    @property
    def _is_replayed_by_hook(self) -> bool:
        return self._socket.started and not self._socket.replayed

    def claim(self) -> Claim:
        """Return what the socket claims because of what Django knows of its client."""
        hooks = self._subscriber
        groups = filter(None, _auth_groups(hooks).values())
        marks = get_control().marks_of(self)
        return claim_of(hooks.calls.scope, marks, groups, hooks.is_stock, hooks.calls.context)

    async def look_again(self, doubt: Doubt) -> None:
        """Find out what the socket may still use, and give up the rest."""
        if self._socket.outbox.closed:
            return
        hooks, control = self._subscriber, get_control()
        before = hooks.rights
        self._standing.looked_at = True
        try:
            # In the context of this socket: the task that looks at it looks at others as well.
            asking = ask_again(hooks, control.marks_of(self), doubt)
            found = await this_loop().spawn(asking, "ws4redis-ask-again", hooks.calls.context)
        finally:
            self._standing.looked_at = False
        if isinstance(found, Verdict):
            self._revoke(found)
            return
        if isinstance(found, bytes):
            control.renew(self, found)
            hooks.rest()
        elif doubt is Doubt.DUE and not hooks.is_setting:  # it will be due again
            self._tell("Keeping", found.error)
        else:
            self._close(Verdict(codes.TRY_AGAIN_LATER, found.error))
            return
        hooks.follow(self._on_change)
        hears = hooks.rights.hears
        if gone := before.hears - hears:
            self._give_up(gone)
        if hears != before.hears:  # also for what was added while nobody followed
            self._on_change()

    def _give_up(self, gone: Collection[str]) -> None:
        """Hear some channels no more, from this moment on, nor what has been published there."""
        if self._socket.outbox.holds(self._socket) or self._is_replayed_by_hook:
            # What waits may be of these channels. The client comes back, and recovers the rest.
            why = "it may hear less, and what waits for its client cannot be told apart"
            self._revoke(Verdict(codes.TRY_AGAIN_LATER, why))
            return
        self._fanout.leave(self._socket, gone)
        self._socket.drop(gone)

    def _revoke(self, verdict: Verdict) -> None:
        self._tell("Revoking", verdict.why)
        self._close(verdict._replace(why=""))

    def _tell(self, what: str, why: Exception | str) -> None:
        if why:
            tell(logger, logging.INFO, what, self._subscriber.calls.scope["path"], why)

    def _close(self, verdict: Verdict) -> None:
        self._standing.barred = True
        self.end(*verdict, at_once=True)
