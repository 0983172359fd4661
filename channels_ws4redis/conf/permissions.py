"""The settings that say who a socket is, and what it may use. Private."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from channels_ws4redis.conf.reading import Reader, improper

#: What may end a socket, or have it looked at again.
CAUSES = ("logout", "login", "user", "groups")

DEFAULT_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]

Hook = Callable[..., Any] | str | None


class Permissions(Reader):
    """Who a socket is, and what it may use."""

    @property
    def WS4REDIS_ALLOWED_CHANNELS(self) -> Hook:
        """A function ``(request, channels)``, or its dotted path, that returns a socket's flags.

        With None every socket gets the flags it asks for. See
        [WS4REDIS_ALLOWED_CHANNELS](hooks.md#which-flags-a-socket-gets).
        """
        return self._hook("WS4REDIS_ALLOWED_CHANNELS")

    @property
    def WS4REDIS_FACILITIES(self) -> str:
        """What a facility is that no [policy](python.md#channels-ws4redis-facilities) names.

        With ``"open"``, sockets use it as in django-websocket-redis. With ``"strict"``, its sockets
        are refused with 403. Django code may publish on it in both cases, which nobody hears with
        ``"strict"``; a ``RuntimeWarning`` says so.
        """
        value: str = self._get("WS4REDIS_FACILITIES", "open")
        if value in ("open", "strict"):
            return value
        raise improper("WS4REDIS_FACILITIES", value, "'open' or 'strict'")

    @property
    def WS4REDIS_ALLOW_PUBLISH(self) -> bool | None:
        """Whether clients may publish on facilities that no policy names.

        With True and None they may, as far as ``WS4REDIS_ALLOWED_CHANNELS`` lets them; with None,
        [check W005](checks.md) reminds you of that. With False they may not, whatever that grants.
        """
        return self._flag("WS4REDIS_ALLOW_PUBLISH")

    @property
    def WS4REDIS_PROCESS_REQUEST(self) -> Hook:
        """A function ``(request)``, or its dotted path, that sets the request's user and session.

        It replaces the authentication by session cookie. See
        [WS4REDIS_PROCESS_REQUEST](hooks.md#who-a-socket-is).
        """
        return self._hook("WS4REDIS_PROCESS_REQUEST")

    def _hook(self, name: str) -> Hook:
        value: Hook = self._get(name, None)
        if value is None or isinstance(value, str) or callable(value):
            return value
        raise improper(name, value, "a function, its dotted path, or None")

    @property
    def WS4REDIS_ALLOWED_ORIGINS(self) -> Collection[str]:
        """Origins besides the server's own whose pages may open a socket; ``["*"]`` means all.

        For example ``"https://app.example.com"``, or ``"https://*.example.com"`` for a domain and
        all below it. ``CSRF_TRUSTED_ORIGINS`` counts as well. A client that sends no ``Origin`` is
        no browser and is let in.
        """
        value = self._get("WS4REDIS_ALLOWED_ORIGINS", None)
        if value is None:
            return ()
        if isinstance(value, str):
            return [value]
        remedy = "a list of origins, such as 'https://app.example.com'"
        return self._texts("WS4REDIS_ALLOWED_ORIGINS", (), remedy)

    @property
    def WS4REDIS_REVOKE_ON(self) -> Collection[str]:
        """What ends sockets, or has them looked at again: some of the four below, all by default.

        ``"logout"`` closes the sockets of the session that is logged out. ``"login"`` has those of
        the session come back whose key changes at a login. ``"user"`` looks at the sockets of a
        user again who is saved, and closes those of one who is deleted. ``"groups"`` looks at the
        sockets of users again who join or leave auth groups; without it a user's groups are those
        of the last login, also for new sockets. What is left out is found all the same by
        ``WS4REDIS_REAUTHORIZE``, unless that is 0.
        """
        remedy = f"a list of some of these: {', '.join(CAUSES)}"
        value = self._texts("WS4REDIS_REVOKE_ON", CAUSES, remedy)
        if any(cause not in CAUSES for cause in value):
            raise improper("WS4REDIS_REVOKE_ON", value, remedy)
        return value

    @property
    def WS4REDIS_REAUTHORIZE(self) -> float:
        """Seconds within which each open socket is looked at again; with 0 or None none is.

        It finds what Django does not tell: a ``QuerySet.update()``, SQL, a session that has expired
        or is gone from its store, another answer of a policy. See
        [what is not told](../howto/authorise.md#what-django-does-not-tell), also for what it costs.
        """
        if self._get("WS4REDIS_REAUTHORIZE", 300.0) is None:
            return 0.0
        return self._seconds("WS4REDIS_REAUTHORIZE", 300.0)

    @property
    def AUTHENTICATION_BACKENDS(self) -> Collection[str]:
        """Django's backends, by which a session's user is found."""
        return self._texts("AUTHENTICATION_BACKENDS", DEFAULT_BACKENDS)

    @property
    def CSRF_TRUSTED_ORIGINS(self) -> Collection[str]:
        """Django's list of origins that may send unsafe requests; their pages may open sockets."""
        return self._texts("CSRF_TRUSTED_ORIGINS", ())

    @property
    def DEBUG(self) -> bool:
        """Django's switch for development.

        While it is on, the log tells why a socket that is let in may do less than its page asks
        for: a flag that is not granted, a visitor who is not logged in, messages that nobody gets.
        """
        return bool(self._get("DEBUG", False))

    @property
    def SESSION_COOKIE_NAME(self) -> str:
        """Django's name of the session cookie, by which a socket is authenticated."""
        return self._text("SESSION_COOKIE_NAME", "sessionid")

    @property
    def SESSION_ENGINE(self) -> str:
        """Django's session engine, from which the session of a socket is loaded."""
        return self._text("SESSION_ENGINE", "django.contrib.sessions.backends.db")

    @property
    def SESSION_CACHE_ALIAS(self) -> str:
        """Django's name of the cache that keeps sessions; check W009 looks at it."""
        return self._text("SESSION_CACHE_ALIAS", "default")
