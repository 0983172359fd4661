"""What the log tells of sockets that are served, though not as their pages or policies have it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.addresses import Proxy
from channels_ws4redis.handshake.policies import Match, Policy
from channels_ws4redis.protocol.names import GROUP, SESSION, USER
from channels_ws4redis.protocol.texts import meant_by, shown
from channels_ws4redis.store.process import this_process

logger = logging.getLogger(__name__)

#: Remarks that may be made within so many seconds, and how many subjects are remembered.
BURST, PERIOD, REMEMBERED = 10, 60.0, 1000

#: Flags of a socket that are looked at, and characters of each.
_FLAGS, _LENGTH = 10, 100

#: Why a flag leads to no channel, and what to do, by its audience.
_REASONS = {
    USER: "nobody is logged in; log in before the page is loaded, or leave it out for visitors",
    GROUP: "its session has no auth groups; those of a user are written there by a login",
    SESSION: "it has no session; have a view save one before the page is loaded",
}


class Remarks:
    """Which remarks were made: each is made once, and few in a minute, as strangers cause them."""

    def __init__(self) -> None:
        #: Subjects as keys, the oldest first.
        self._made: dict[str, None] = {}
        #: When the last remarks were made, by `time.monotonic`.
        self._times: deque[float] = deque(maxlen=BURST)

    def is_due(self, subject: str) -> bool:
        """Tell whether to make a remark about a subject now; if so it counts as made."""
        now = time.monotonic()
        many = len(self._times) == BURST and now - self._times[0] < PERIOD
        if many or subject in self._made:
            return False
        self._times.append(now)
        self._made[subject] = None
        if len(self._made) > REMEMBERED:
            del self._made[next(iter(self._made))]
        return True


def tell_of_unknown(path: str, flags: Sequence[str], known: Collection[str]) -> None:
    """Log that names in a socket's query string look like flags and are none.

    :param known: the flags that there are.
    """
    for flag in (flag[:_LENGTH] for flag in flags[:_FLAGS]):
        if _remarks().is_due(flag):
            logger.warning(
                "The socket %s asks for %s, which is no flag and has no effect: %s",
                shown(path),
                shown(flag),
                _flags_for(flag, known),
            )


def tell_of_misspelt(policy: Policy, granted: Iterable[Any], known: Collection[str]) -> None:
    """Log that a policy grants names that are no flags, by which its sockets get nothing.

    :param known: the flags that there are.
    """
    names = {name[:_LENGTH] for name in granted if isinstance(name, str)}
    for name in sorted(names.difference(known, {"echo"}))[:_FLAGS]:
        if _remarks().is_due(f"{name} by {policy.name}"):
            logger.warning(
                "The policy %s grants %s, which is no flag and has no effect: %s",
                policy.name,
                shown(name),
                _flags_for(name, known),
            )


def tell_of_withheld(policy: Policy, flags: Iterable[str]) -> None:
    """Log that the function of a policy grants flags, and its option publish does not."""
    for flag in flags:
        if _remarks().is_due(f"{flag} beyond {policy.name}"):
            logger.warning(
                "The policy %s grants %s, which its option publish does not name; it is not "
                "granted",
                policy.name,
                flag,
            )


def _flags_for(name: str, known: Collection[str]) -> str:
    """Return which flags there are, and which of them is meant by a name that is none."""
    meant = meant_by(name, known)
    remedy = f"did you mean {meant!r}? " if meant else ""
    return f"{remedy}There are {', '.join(sorted(known))}."


def tell_of_ungranted(
    path: str, flags: Sequence[str], granted: Collection[str], found: Match | None
) -> None:
    """Log, during development, that a socket is let in with fewer flags than it asks for.

    :param flags: those that it asks for.
    :param granted: those that it gets.
    :param found: the policy of its facility; None if there is none.
    """
    if not settings.DEBUG:
        return  # a policy may well grant less to some
    policy = None if found is None else found.policy
    decider = path if policy is None else policy.name
    for flag in flags:
        if flag not in granted and _remarks().is_due(f"{flag} by {decider}"):
            reason = _why_withheld(flag, policy)
            logger.warning("The socket %s is not granted %s: %s", shown(path), flag, reason)


def _why_withheld(flag: str, policy: Policy | None) -> str:
    publishes = flag.startswith("publish-")
    if policy is not None and publishes and flag not in policy.options.publish:
        return f"the option publish of the policy {policy.name} does not name it"
    if policy is None and publishes and settings.WS4REDIS_ALLOW_PUBLISH is False:
        return "WS4REDIS_ALLOW_PUBLISH is False, and no policy names the facility"
    asked = [] if policy is None else [f"the policy {policy.name}"]
    if settings.WS4REDIS_ALLOWED_CHANNELS is not None:
        asked.insert(0, "the function in WS4REDIS_ALLOWED_CHANNELS")
    return f"{' or '.join(asked)} does not grant it"


def tell_of_unpublished(path: str) -> None:
    """Log, during development, that a client sends on a socket that may not publish."""
    if settings.DEBUG and _remarks().is_due(f"sends on {path}"):
        logger.warning(
            "The socket %s sends what nobody gets: it has no flag such as publish-broadcast, was "
            "not granted it, or has no user, auth group or session that it stands for",
            shown(path),
        )


def tell_of_slowing(whom: Hashable) -> None:
    """Log that what a client sends has to wait, of which neither side is told otherwise.

    :param whom: the client, for whom all of its sockets count.
    """
    if _remarks().is_due(f"slowing {whom}"):
        logger.warning(
            "Slowing down %s, who sends more than WS4REDIS_PUBLISH_RATE or WS4REDIS_FILL_RATE lets "
            "through at once",
            _named(whom),
        )


def _named(whom: Hashable) -> str:
    if isinstance(whom, Proxy):
        return f"a client behind {shown(whom.host)}"
    if isinstance(whom, tuple):
        model, key = whom
        return f"the {model._meta.label_lower} {shown(str(key))}"
    return f"the address {whom}"


def tell_of_unheard(
    path: str, flags: Collection[str], prefix: str, channels: Iterable[str]
) -> None:
    """Log, during development, that flags lead to no channel as there is no user or session.

    :param flags: those that the socket was granted.
    :param prefix: what the names of channels begin with.
    :param channels: the names of those that it hears.
    """
    if not settings.DEBUG:
        return  # a page that is for visitors too asks for the same flags
    heard = {name.removeprefix(prefix).partition(":")[0] for name in channels}
    for audience in _REASONS.keys() - heard:
        flag = f"subscribe-{audience}"
        if flag in flags and _remarks().is_due(f"{flag} on {path}"):
            reason = _REASONS[audience]
            logger.warning("The socket %s hears nothing by %s: %s", shown(path), flag, reason)


def _remarks() -> Remarks:
    return this_process().get(Remarks, Remarks)
