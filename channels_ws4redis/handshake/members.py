"""The auth groups of a socket's user: those that the session names, where the database agrees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.db.models import Model

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.requests import unwrapped
from channels_ws4redis.protocol.names import AT_LOGIN, GROUP, MEMBER_OF


async def bring_up_to_date(
    request: Any, flags: Collection[str], is_stock: bool, calls: Calls
) -> None:
    """Compare the list in the session with the database, if somebody is about to look at it.

    :param flags: those that were granted.
    :param is_stock: whether only the package's own subscriber looks at the list.
    :raises channels_ws4redis.handshake.refusals.BusyError: if no thread is free in time.
    """
    if _may_be_outdated(request, flags, is_stock):
        await calls.look_up(ask_database, request)


def _may_be_outdated(request: Any, flags: Collection[str], is_stock: bool) -> bool:
    if "groups" not in settings.WS4REDIS_REVOKE_ON:
        return False
    asks = not is_stock or any(flag.endswith(f"-{GROUP}") for flag in flags)
    return asks and isinstance(unwrapped(request.session), SessionBase)


def ask_database(request: Any) -> None:
    """Take auth groups out of a session's list of which its user is no member any more.

    The application may have written other names into the list, which stay. The list that the last
    login has written, and nobody has changed since, becomes that of the user's groups now. The
    session is not saved. This asks the database and so blocks.
    """
    session, user = request.session, request.user
    listed = session.get(MEMBER_OF)
    if listed is None or not isinstance(user, Model) or not hasattr(user, "groups"):
        return
    own = list(user.groups.values_list("name", flat=True))
    session[MEMBER_OF] = listed_now(
        listed, session.get(AT_LOGIN), own, partial(existing_groups, user.groups.model)
    )


def listed_now(
    listed: Any,
    at_login: Any,
    own: list[str],
    existing: Callable[[Collection[str]], Collection[str]],
) -> list[str]:
    """Return the list of auth groups and other names that counts now.

    :param listed: what stands in the session.
    :param at_login: what the login has written there.
    :param own: the names of the user's auth groups.
    :param existing: tells which of some names are those of auth groups.
    """
    if listed == at_login:
        return own
    names = as_names(listed)
    others = [name for name in names if name not in own]
    gone = existing(others) if others else ()
    return [name for name in names if name not in gone]


def as_names(listed: Any) -> list[str]:
    """Return the names in the list of a session, which may be a single one or nothing."""
    return [listed] if isinstance(listed, str) else [str(name) for name in listed or () if name]


def existing_groups(model: type[Model], names: Iterable[str]) -> set[str]:
    """Return those of some names that are names of auth groups. This asks the database."""
    found = model._default_manager.filter(name__in=names)
    return set(found.values_list("name", flat=True))
