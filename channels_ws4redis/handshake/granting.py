"""Granting: what a socket may use, by the legacy hook and by the policy of its facility.

Both have to grant it: the policy is asked about what WS4REDIS_ALLOWED_CHANNELS has left.
Everything fails closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import Http404
from django.utils.functional import empty

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake import deadlines, policies, remarks
from channels_ws4redis.handshake.hooks import ENDS, REFUSALS, Calls
from channels_ws4redis.handshake.policies import NO_OPTIONS, Match, Options, Policy
from channels_ws4redis.handshake.refusals import BusyError, RefusedError, few_lines
from channels_ws4redis.handshake.requests import WebSocketRequest, unwrapped
from channels_ws4redis.protocol.texts import reason_of, shown

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)


class PolicyFailedError(RefusedError):
    """A policy has failed. The socket is refused, and whether it may be there is not known."""

    def __init__(self, why: str) -> None:
        super().__init__(why, "policies that fail")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a socket may use."""

    #: The flags that it is granted.
    flags: Sequence[str]
    #: How the messages of its facility are treated.
    options: Options


def policy_of(request: WebSocketRequest) -> Match | None:
    """Return the policy of a socket's facility; None if none names it, and none has to.

    :raises PolicyFailedError: if a converter in a route fails.
    :raises RefusedError: if a policy has to name it, or if it is another spelling of a facility.
        Two facilities with the arguments of one would be told apart by publishers, and not by the
        policy.
    """
    policies.discover()
    try:
        found = policies.match(request.facility)
    except Exception:
        logger.exception(
            "A converter in the route of a policy failed for the socket %s; it is refused",
            shown(request.path),
        )
        raise PolicyFailedError("a converter in the route of a policy has failed") from None
    if found is None and settings.WS4REDIS_FACILITIES == "strict":
        raise RefusedError(
            "no policy names its facility, and WS4REDIS_FACILITIES is 'strict'", "policy"
        )
    if found is not None and not found.is_canonical:
        raise RefusedError(
            f"its facility is spelt otherwise than the policy {found.policy.name} spells its "
            "arguments, as 007 is for 7",
            "policy",
        )
    return found


async def grant(
    request: WebSocketRequest,
    flags: Sequence[str],
    publishing: Collection[str],
    known: Collection[str],
    calls: Calls,
) -> Grant:
    """Ask the hook and the policy what a socket may use.

    :param request: that of the socket's handshake; who it is has been found out.
    :param flags: those that the socket asks for.
    :param publishing: the flags by which clients publish.
    :param known: all flags that there are.
    :param calls: run what may block for this socket.
    :raises PolicyFailedError: if the policy fails, or takes too long.
    :raises django.core.exceptions.PermissionDenied: if the socket is refused.
    :raises channels.exceptions.DenyConnection: the same.
    :raises channels_ws4redis.handshake.refusals.BusyError: if no thread is free in time, or if what
        came before has left the policy too little of the handshake's.
    """
    flags = await _ask_hook(request, flags, calls)
    found = policy_of(request)  # only now: a hook may have changed the facility
    if found is not None:
        answer = await _answer(request, found, calls)
        if answer and answer is not True:
            remarks.tell_of_misspelt(found.policy, answer, known)
        granted = _granted_by(found.policy, answer, flags, publishing)
        return Grant(granted, found.policy.options)
    if settings.WS4REDIS_ALLOW_PUBLISH is False:
        flags = [flag for flag in flags if flag not in publishing]
    return Grant(flags, NO_OPTIONS)


async def _ask_hook(request: WebSocketRequest, flags: Sequence[str], calls: Calls) -> Sequence[str]:
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
    except ENDS:
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


def _granted_by(
    policy: Policy, answer: Any, flags: Sequence[str], publishing: Collection[str]
) -> list[str]:
    """Return those of the flags that the policy of the facility grants by its answer."""
    if answer is None or answer is False:
        raise RefusedError(f"the policy {policy.name} refuses it", "policy")
    given = [flag for flag in flags if answer is True or flag in answer]
    granted = [flag for flag in given if flag not in publishing or flag in policy.options.publish]
    if answer is not True:
        remarks.tell_of_withheld(policy, [flag for flag in given if flag not in granted])
    if flags and not granted:
        raise RefusedError(
            f"the policy {policy.name} grants none of the flags it asks for", "policy"
        )
    return granted


async def _answer(request: WebSocketRequest, found: Match, calls: Calls) -> Any:
    """Return what the function of a policy says: True, False, None, or a collection of flags."""
    policy, seconds = found.policy, min(deadlines.POLICY, calls.time_left)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if iscoroutinefunction(policy.function) and unwrapped(request.user) is empty:
                await calls.look_up(getattr, request.user, "is_authenticated", None)
            answer = await calls.hook(partial(policy.function, request, **found.arguments))
        if not (answer is None or type(answer) in {bool, list, tuple, set, frozenset}):
            raise TypeError(f"it returned {answer!r} instead of True, False or a list of flags")
        return answer
    except (Http404, *REFUSALS) as error:
        raise RefusedError(
            f"the policy {policy.name} refuses it: {reason_of(error)}", "policy"
        ) from None
    except BusyError:
        raise
    except Exception:
        name, path = policy.name, shown(request.path)
        if limit.expired() and seconds < deadlines.POLICY:
            raise BusyError(
                f"all else has left {seconds:.1f} s of its handshake to the policy {name}",
                "handshakes that take long",
            ) from None
        if limit.expired():
            logger.error(
                "The policy %s took longer than %s s for the socket %s; it is refused",
                name,
                seconds,
                path,
            )
        else:
            logger.exception("The policy %s failed for the socket %s; it is refused", name, path)
        raise PolicyFailedError(f"the policy {name} has failed") from None
