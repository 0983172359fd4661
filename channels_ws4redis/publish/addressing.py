"""Whom a publisher's arguments name, also as in legacy; a part of `redis_store`. Private."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.policies import are_known, is_misspelt, is_named
from channels_ws4redis.handshake.sessions import session_key
from channels_ws4redis.protocol.names import MEMBER_OF, SELF, SESSION, USER
from channels_ws4redis.protocol.texts import meant_by


def own_identities(request: Any, audience: str) -> list[str]:
    """Return the identities of a request in an audience: its session, its user, or its auth groups.

    :param request: any object with ``session`` and ``user``, or None.
    """
    session = getattr(request, "session", None)
    if audience == SESSION:
        key = session_key(session)
        return [key] if key else []
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return []
    if audience == USER:
        name = user.get_username()
        return [str(name)] if name else []
    members = session.get(MEMBER_OF) if session is not None else None
    if isinstance(members, str) or not members:
        return [members] if members else []
    return [str(member) for member in members if member]


def require_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Make sure that a publisher's arguments have names that there are.

    :param function: what takes them; that of a subclass may take more than there are here.
    :param given: the arguments, by name.
    :raises TypeError: if one has another name, such as ``user`` for ``users``.
    """
    taken = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return  # what it passes them on to decides
    known = [*taken, "history", "history_expire"]
    for name, value in given.items():
        if name not in known:
            meant = meant_by(name, known)
            form = f"{meant}=[…]" if meant in {"users", "groups", "sessions"} else f"{meant}=…"
            remedy = f"write {form}" if meant else f"there are {', '.join(known)}"
            raise TypeError(
                f"RedisPublisher({name}={value!r}) has no argument of the name {name}; {remedy}."
            ) from None


def why_unheard(facility: str | None) -> str | None:
    """Return why no socket can open on a facility, None if one can, or if that is not known.

    It is not known in a process that has not imported the project's policies.
    """
    if facility is None:
        return None
    if is_misspelt(facility):
        return "its policy spells the arguments otherwise"
    is_strict = settings.WS4REDIS_FACILITIES == "strict" and are_known()
    if is_strict and not is_named(facility):
        return "no policy names it, and WS4REDIS_FACILITIES is 'strict'"
    return None


def as_flag(broadcast: Any) -> bool:
    """Return whether the argument ``broadcast`` addresses everybody.

    :raises ValueError: if it can only be a mistake.
    """
    if isinstance(broadcast, bool) or broadcast is None:
        return bool(broadcast)
    if broadcast in (0, 1):
        _deprecate(f"broadcast={broadcast!r}", f"broadcast={bool(broadcast)}")
        return bool(broadcast)
    raise ValueError(f"broadcast={broadcast!r} is neither True nor False.")


def legacy_values(values: Any, keyword: str) -> Any:
    """Translate the short forms of legacy: True for oneself, False for nobody, a bare name."""
    if values is True:
        _deprecate(f"{keyword}=True", f"{keyword}=[SELF]")
        return SELF
    if values is False:
        return ()
    if isinstance(values, str):
        _deprecate(f"{keyword}={values!r}", f"{keyword}=[{values!r}]")
    return values


def _deprecate(given: str, remedy: str) -> None:
    warn(f"{given} is deprecated; write {remedy}.", DeprecationWarning)


def warn(text: str, category: type[Warning]) -> None:
    """Warn of a line of the project's own code: the innermost one that is not the package's."""
    package, level, frame = __name__.partition(".")[0], 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
