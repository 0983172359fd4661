"""What is known of a socket by which orders may concern it, and how it is found out anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.sessions.backends.base import SessionBase
from django.db.models import Model
from django.utils.functional import empty

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.members import as_names
from channels_ws4redis.handshake.requests import WebSocketRequest, unwrapped
from channels_ws4redis.handshake.sessions import user_of
from channels_ws4redis.protocol.names import MEMBER_OF, auth_group_of
from channels_ws4redis.protocol.orders import MARK_BYTES, Trait, mark, split

#: Stands for what there is not; no order has it.
_NONE: Final = bytes(MARK_BYTES)

#: Stands for a user whom nobody has looked at, as a policy may or may not do.
_UNSEEN: Final = b"\xff" * MARK_BYTES


def marks_of(request: WebSocketRequest, prefix: str, channels: Iterable[str]) -> bytes:
    """Return the marks of a socket: who it is, then its facility and its auth groups.

    Nothing is loaded for this. A socket that hears broadcasts alone has not been asked for its
    user; its session is the one that its cookie names.

    :param prefix: what the names of its channels begin with, the colon included, or "".
    :param channels: the names of the channels that it hears.
    """
    user, session = unwrapped(request.user), _session_of(request)
    members = _members_of(request)
    heard = {auth_group_of(prefix, name) for name in channels}
    groups = sorted({*members, *(group for group in heard if group)})
    return b"".join(
        [
            mark(Trait.SESSION, session) if session else _NONE,
            *_marks_of_user(user),
            mark(Trait.FACILITY, request.facility),
            *(mark(Trait.GROUP, group) for group in groups),
        ]
    )


def is_same(marks: bytes, session: str, user: Any) -> bool:
    """Tell whether the marks of a socket are of a session and its user; None for nobody."""
    return _person(marks) == [mark(Trait.SESSION, session), *_marks_of_user(user)]


def has_session(marks: bytes) -> bool:
    """Tell whether a socket has a session whose user somebody has looked for."""
    session, *user = _person(marks)
    return session != _NONE and _UNSEEN not in user


def what_changed(before: bytes, now: bytes) -> str:
    """Tell in which way the session or the user in the marks of a socket is another one now.

    If somebody has looked at them only before, or only now, they are not taken for others: of what
    nobody has looked at, there is no more than what the cookie says.

    :returns: for the log; empty if both are the same.
    """
    session, *user = _person(before)
    session_now, *user_now = _person(now)
    if (_UNSEEN in user) != (_UNSEEN in user_now):
        return ""
    if session != session_now:
        return "it has another session now" if session_now != _NONE else "its session has ended"
    if user == user_now:
        return ""
    if user_now == [_NONE, _NONE]:
        return (
            "its session logs nobody in any more: the user is deleted, not active, or has another "
            "password"
        )
    return "its user is another one now, or has another name"


def is_renamed(before: bytes, now: bytes) -> bool:
    """Tell whether the same session logs the same user in, who may have another name."""
    session, _, account = _person(now)
    was_in, _, was = _person(before)
    return (session, account) == (was_in, was) and account not in (_NONE, _UNSEEN)


def had_user(marks: bytes) -> bool:
    """Tell whether somebody was logged in on a socket, as far as anybody has looked."""
    return any(each not in (_NONE, _UNSEEN) for each in _person(marks)[1:])


def _person(marks: bytes) -> list[bytes]:
    """Return the marks of the session, of the user's name and of the account."""
    return split(marks)[:3]


def _marks_of_user(user: Any) -> tuple[bytes, bytes]:
    if user is empty:
        return _UNSEEN, _UNSEEN
    name = _name_of(user)
    return mark(Trait.USER, name) if name else _NONE, account_mark(user) or _NONE


def account_mark(user: Any) -> bytes | None:
    """Return the mark of a user's primary key; None for whoever has none."""
    if not isinstance(user, Model) or not hasattr(user, "get_username") or user.pk is None:
        return None
    # A model that extends the project's own stands for the same users.
    model = get_user_model() if isinstance(user, get_user_model()) else user
    label = model._meta.concrete_model._meta.label_lower  # type: ignore[union-attr] # it has one
    return mark(Trait.ACCOUNT, f"{label}:{user.pk}")


def _name_of(user: Any) -> str:
    if not getattr(user, "is_authenticated", False) or not hasattr(user, "get_username"):
        return ""
    return str(user.get_username() or "")


def _session_of(request: WebSocketRequest) -> str:
    session = unwrapped(request.session)
    if session is None or session is empty:
        return request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    return str(getattr(session, "session_key", "") or "")


def _members_of(request: WebSocketRequest) -> list[str]:
    """Return the auth groups in the session, if somebody has loaded it."""
    data = getattr(unwrapped(request.session), "_session_cache", None)
    return as_names(data.get(MEMBER_OF)) if isinstance(data, dict) else []


def renewed(scope: dict[str, Any]) -> dict[str, Any]:
    """Return what a server says about a socket with the user and session of a middleware read anew.

    A middleware has found them when the socket connected. This may ask the database and so block.
    """
    session, user = unwrapped(scope.get("session")), unwrapped(scope.get("user"))
    fresh = dict(scope)
    was_logged_in = False
    if isinstance(session, SessionBase):
        was_logged_in = SESSION_KEY in (getattr(session, "_session_cache", None) or {})
        session = fresh["session"] = type(session)(session.session_key)
    if isinstance(user, Model):
        # A middleware may have found the user by the session, or by something that we do not know.
        found = user_of(session) if was_logged_in else None
        if not was_logged_in:
            found = type(user)._default_manager.filter(pk=user.pk).first()
        fresh["user"] = found if getattr(found, "is_active", True) else None
    return fresh


def has_renewable(scope: dict[str, Any]) -> bool:
    """Tell whether `renewed` would read anything."""
    return isinstance(unwrapped(scope.get("session")), SessionBase) or isinstance(
        unwrapped(scope.get("user")), Model
    )
