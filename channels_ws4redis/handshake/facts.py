"""Whether sockets may be what they were: what Django knows of their clients, read for many at once.

The answer is one-sided. Where all is as it was for certain, nobody need ask any further. In every
other case, an authentication backend of the project's own among them, nothing is said: then the
socket is admitted anew, and only that decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple

from django.contrib.auth import SESSION_KEY, get_user_model

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.identity import has_session, is_same
from channels_ws4redis.handshake.members import as_names, existing_groups, listed_now
from channels_ws4redis.handshake.policies import match
from channels_ws4redis.handshake.readers import read_sessions
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.handshake.users import Users
from channels_ws4redis.protocol.names import AT_LOGIN, MEMBER_OF


class Claim(NamedTuple):
    """What a socket has been granted because of what Django knows of its client."""

    #: The key of its session; empty if it has none, or if nobody has asked for it.
    session: str
    marks: bytes
    #: The auth groups, and other names in the list of the session, whose channels it uses.
    groups: frozenset[str]
    #: Whether code of the project has a say in it, which may look at anything.
    by_project: bool
    #: In which the project's own code judges the user.
    context: Context


def claim_of(
    scope: dict[str, Any],
    marks: bytes,
    groups: Iterable[str],
    is_stock: bool,
    context: Context | None = None,
) -> Claim:
    """Return the claim of a socket.

    :param scope: what the server says about the socket.
    :param groups: of which names it uses the channels.
    :param is_stock: whether its subscriber is of the package's own class.
    :param context: a copy of that of its handshake; None for an empty one.
    """
    request = WebSocketRequest(scope)
    by_cookie = (
        settings.WS4REDIS_PROCESS_REQUEST is None and "user" not in scope and "session" not in scope
    )
    # A key that nobody has found a session by is whatever the client has sent. A database or a
    # cache that cannot take such a text would fail for all others that are looked at with it.
    is_found = by_cookie and has_session(marks)
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "") if is_found else ""
    by_project = (
        not is_stock
        or not by_cookie
        or settings.WS4REDIS_ALLOWED_CHANNELS is not None
        or _has_policy(request)
    )
    return Claim(key, marks, frozenset(groups), by_project, context or Context())


def _has_policy(request: WebSocketRequest) -> bool:
    try:
        return match(request.facility) is not None
    except Exception:  # noqa: BLE001 # of a project's converter; the admission tells of it
        return True


def still_true(claims: Sequence[Claim]) -> list[bool]:
    """Return, claim by claim, whether it is true for certain. This asks the database and so blocks.

    There are four queries for all of them: for sessions, users, the groups of these, and names.

    :raises Exception: whatever says that the database or the cache cannot be asked at the moment.
    """
    sessions = read_sessions({claim.session for claim in claims if claim.session})
    users = Users(sessions.values())
    groups = _Groups(users, {name for claim in claims for name in claim.groups})
    return [_is_certain(claim, sessions, users, groups) for claim in claims]


def _is_certain(
    claim: Claim, sessions: Mapping[str, dict[str, Any]], users: Users, groups: _Groups
) -> bool:
    try:
        return claim.context.run(_is_true, claim, sessions, users, groups)
    except Exception:  # noqa: BLE001 # of the project's user or backend, about this client alone
        return False  # the admission asks the same, and tells of it


def _is_true(
    claim: Claim, sessions: Mapping[str, dict[str, Any]], users: Users, groups: _Groups
) -> bool:
    if not claim.session:
        return True
    data = sessions.get(claim.session)
    if data is None:
        return False
    # Nobody is what the session has to log in whose socket is nobody's.
    user = users.logged_in_by(data) if SESSION_KEY in data else None
    return is_same(claim.marks, claim.session, user) and groups.grant(claim.groups, data, user)


class _Groups:
    """The auth groups of users, if sockets use channels of such groups."""

    def __init__(self, users: Users, names: Collection[str]) -> None:
        model: Any = get_user_model()
        self._follow = "groups" in settings.WS4REDIS_REVOKE_ON and hasattr(model, "groups")
        #: False for a model of the project's own whose groups only a user tells.
        self._known = hasattr(getattr(model, "groups", None), "rel")
        #: Those of some names that are names of auth groups.
        self._existing: set[str] = set()
        #: Which of these names each user's groups have, by the user's primary key.
        self._own: dict[Any, list[str]] = {}
        if self._follow and self._known and names:
            group = model.groups.rel.model
            self._existing = existing_groups(group, names)
            # As a user's own are found: by the manager, which may leave some out.
            found = group._default_manager.filter(name__in=names)
            members = model._default_manager.filter(pk__in=users.keys(), groups__in=found)
            for key, name in members.values_list("pk", "groups__name"):
                self._own.setdefault(key, []).append(name)

    def grant(self, names: Collection[str], data: Mapping[str, Any], user: Any) -> bool:
        """Tell whether a session and its user have all of some names."""
        listed = data.get(MEMBER_OF)
        if not names or listed is None or user is None or not self._follow:
            return set(as_names(listed)).issuperset(names)
        if not self._known:
            return False
        own = self._own.get(user.pk, [])
        now = listed_now(listed, data.get(AT_LOGIN), own, self._existing.intersection)
        return set(now).issuperset(names)
