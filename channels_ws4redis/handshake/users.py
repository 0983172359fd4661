"""Whom sessions log in, found for many of them at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.core.exceptions import ValidationError
from django.utils.crypto import constant_time_compare

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.managers import finds_as_django


class Users:
    """The users whom sessions log in, as far as Django's own way to find a user by the key goes.

    The table is asked once for all. This may block.

    :param sessions: the data of sessions.
    :raises Exception: whatever says that the database cannot be asked at the moment.
    """

    def __init__(self, sessions: Collection[Mapping[str, Any]]) -> None:
        self._model = get_user_model()
        used = {data.get(BACKEND_SESSION_KEY) for data in sessions}
        paths = (path for path in settings.AUTHENTICATION_BACKENDS if path in used)
        backends: dict[str, Any] = {path: load_backend(path) for path in paths}
        #: By their paths.
        self._backends = {path: each for path, each in backends.items() if _finds_by_key(each)}
        manager = self._model._default_manager
        keys: set[Any] = set()
        if finds_as_django(manager):
            keys = {self._key_of(data) for data in sessions} - {None}
        self._users: dict[Any, Any] = manager.in_bulk(keys) if keys else {}

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
        """Return the user whom a session logs in for certain; else None.

        :raises Exception: whatever the project's user or backend raises.
        """
        user = self._users.get(self._key_of(data))
        if user is None:
            return None
        if not self._backends[data[BACKEND_SESSION_KEY]].user_can_authenticate(user):
            return None
        # A fallback of SECRET_KEY may verify it all the same, which is left to Django.
        verifier = data.get(HASH_SESSION_KEY)
        if not verifier or not constant_time_compare(verifier, user.get_session_auth_hash()):
            return None
        return user


def _finds_by_key(backend: Any) -> bool:
    """Tell whether a backend finds a user as Django's own does."""
    # Imported late, as asgi.py imports this package before Django has loaded its models.
    from django.contrib.auth.backends import ModelBackend  # noqa: PLC0415 # see above

    return isinstance(backend, ModelBackend) and (type(backend).get_user is ModelBackend.get_user)
