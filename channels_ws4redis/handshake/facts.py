"""Whether sockets may be what they were: what Django knows of their clients, read for many at once.

The answer is one-sided. Where all is as it was for certain, nobody need ask any further. In every
other case, an authentication backend of the project's own among them, nothing is said: then the
socket is admitted anew, and only that decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.core.exceptions import ValidationError

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.identity import has_session, is_same
from channels_ws4redis.handshake.members import as_names, existing_groups, listed_now
from channels_ws4redis.handshake.policies import match
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.handshake.sessions import read_sessions
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


def claim_of(scope: dict[str, Any], marks: bytes, groups: Iterable[str], is_stock: bool) -> Claim:
    """Return the claim of a socket.

    :param scope: what the server says about the socket.
    :param groups: of which names it uses the channels.
    :param is_stock: whether its subscriber is of the package's own class.
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
    return Claim(key, marks, frozenset(groups), by_project)


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
    users = _Users(sessions.values())
    groups = _Groups(users, {name for claim in claims for name in claim.groups})
    return [_is_certain(claim, sessions, users, groups) for claim in claims]


def _is_certain(
    claim: Claim, sessions: Mapping[str, dict[str, Any]], users: _Users, groups: _Groups
) -> bool:
    try:
        return _is_true(claim, sessions, users, groups)
    except Exception:  # noqa: BLE001 # of the project's user or backend, about this client alone
        return False  # the admission asks the same, and tells of it


def _is_true(
    claim: Claim, sessions: Mapping[str, dict[str, Any]], users: _Users, groups: _Groups
) -> bool:
    if not claim.session:
        return True
    data = sessions.get(claim.session)
    if data is None:
        return False
    # Nobody is what the session has to log in whose socket is nobody's.
    user = users.logged_in_by(data) if SESSION_KEY in data else None
    return is_same(claim.marks, claim.session, user) and groups.grant(claim.groups, data, user)


class _Users:
    """The users whom sessions log in, as far as Django's own way to find a user by the key goes.

    :param sessions: the data of sessions.
    """

    def __init__(self, sessions: Iterable[Mapping[str, Any]]) -> None:
        self._model = get_user_model()
        used = {data.get(BACKEND_SESSION_KEY) for data in sessions}
        paths = (path for path in settings.AUTHENTICATION_BACKENDS if path in used)
        backends: dict[str, Any] = {path: load_backend(path) for path in paths}
        #: By their paths.
        self._backends = {path: each for path, each in backends.items() if _finds_by_key(each)}
        keys = {self._key_of(data) for data in sessions} - {None}
        self._users: dict[Any, Any] = self._model._default_manager.in_bulk(keys) if keys else {}

    def _key_of(self, data: Mapping[str, Any]) -> Any:
        if data.get(BACKEND_SESSION_KEY) not in self._backends or SESSION_KEY not in data:
            return None
        try:
            return self._model._meta.pk.to_python(data[SESSION_KEY])
        except ValidationError:
            return None

    def keys(self) -> list[Any]:
        """Return the primary keys of all who were found, whether they may log in or not."""
        return list(self._users)

    def logged_in_by(self, data: Mapping[str, Any]) -> Any:
        """Return the user whom a session logs in for certain; else None."""
        user = self._users.get(self._key_of(data))
        if user is None or not self._backends[data[BACKEND_SESSION_KEY]].user_can_authenticate(
            user
        ):
            return None
        # A fallback of SECRET_KEY may verify it all the same, which is left to Django.
        return user if data.get(HASH_SESSION_KEY) == user.get_session_auth_hash() else None


def _finds_by_key(backend: Any) -> bool:
    """Tell whether a backend finds a user as Django's own does."""
    # Imported late, as asgi.py imports this package before Django has loaded its models.
    from django.contrib.auth.backends import ModelBackend  # noqa: PLC0415 # see above

    return isinstance(backend, ModelBackend) and (type(backend).get_user is ModelBackend.get_user)


class _Groups:
    """The auth groups of users, if sockets use channels of such groups."""

    def __init__(self, users: _Users, names: Collection[str]) -> None:
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
