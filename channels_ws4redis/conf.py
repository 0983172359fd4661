"""Every setting of the package, read from Django's settings at the moment it is used. Private.

The manual's page of settings, docs/reference/settings.md, is made from this module: the docstring
of each property is its text there, in Markdown, and its default is what the property returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

DEFAULT_CONNECTION = {"host": "localhost", "port": 6379, "db": 0, "password": None}
DEFAULT_SUBSCRIBER = "channels_ws4redis.subscriber.RedisSubscriber"

#: What may end a socket, or have it looked at again.
CAUSES = ("logout", "login", "user", "groups")

Hook = Callable[..., Any] | str | None

Networks = tuple[IPv4Network | IPv6Network, ...]


class Settings:
    """One lazy, typed property per setting; nothing else in the package reads ``django.conf``.

    ``overrides`` holds what code assigned at run time through ``channels_ws4redis.settings``,
    the way legacy projects patch ``ws4redis.settings``; it wins over Django's settings.
    """

    def __init__(self) -> None:
        self.overrides: dict[str, Any] = {}

    def _get(self, name: str, default: Any) -> Any:
        if name in self.overrides:
            return self.overrides[name]
        if not django_settings.configured:
            return getattr(django_settings, name, default)  # which reads them in
        # Past Django's lazy object, which raises and catches an exception for a setting that is
        # absent: seven are looked at for each message, which took 7 of 48 µs.
        return getattr(django_settings._wrapped, name, default)  # type: ignore[misc] # not in the stubs

    def _whole_number(self, name: str, default: int, minimum: int) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ImproperlyConfigured(
                f"{name} is {value!r}; it must be a whole number of at least {minimum}."
            )
        return value

    def _limit(self, name: str, default: int | None) -> int | None:
        if self._get(name, default) is None:
            return None
        return self._whole_number(name, default or 1, minimum=1)

    def _seconds(self, name: str, default: float) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ImproperlyConfigured(f"{name} is {value!r}; it must be a number of seconds.")
        return value

    @property
    def WEBSOCKET_URL(self) -> str:
        """Path prefix of every socket; what follows it is the facility.

        With ``"/ws/"``, a socket at ``/ws/chat`` is on the facility ``chat``. Without a trailing
        slash, facilities begin with a slash.
        """
        value: str = self._get("WEBSOCKET_URL", "/ws/")
        return value

    @property
    def WS4REDIS_MAX_FACILITY(self) -> int:
        """Bytes that the facility of a socket may have, as UTF-8; a longer one gets a 403."""
        return self._whole_number("WS4REDIS_MAX_FACILITY", 255, minimum=1)

    @property
    def WS4REDIS_MAX_MESSAGE(self) -> int:
        """Bytes that a client may send in one message; a larger one closes its socket with 1009.

        Nothing of a larger message is parsed. Servers have limits of their own, 1 MiB on daphne and
        16 MiB on uvicorn; the smaller one counts.
        """
        return self._whole_number("WS4REDIS_MAX_MESSAGE", 1024 * 1024, minimum=1)

    @property
    def WS4REDIS_CONNECTION(self) -> Mapping[str, Any] | str:
        """Where Redis is: a dict of redis-py's connection arguments, or a URL.

        A URL begins with ``redis://``, ``rediss://`` or ``unix://``. A dict may be partial; a port
        as text and ``unix_socket_path`` are understood. A place, user or password that is empty or
        None counts as absent; other options take None as redis-py does, such as
        ``"ssl_cert_reqs": None``. For Sentinel it is
        ``{"sentinels": [(host, port), ...], "service_name": "mymaster", "db": 0}``. An attempt to
        connect takes 3 seconds at most and an answer 5 seconds, unless
        ``socket_connect_timeout`` and ``socket_timeout`` say otherwise. The options ``protocol``,
        ``encoding``, ``decode_responses`` and ``health_check_interval`` have no effect, also in the
        query of a URL.
        """
        value: Mapping[str, Any] | str | None = self._get("WS4REDIS_CONNECTION", None)
        if value is None:
            return DEFAULT_CONNECTION
        if not isinstance(value, str | Mapping):
            raise ImproperlyConfigured(
                f"WS4REDIS_CONNECTION is {value!r}; it must be a dict or a redis:// URL."
            )
        return value

    @property
    def WS4REDIS_PREFIX(self) -> str | None:
        """Put before every channel name, with a colon, to share one Redis with other services."""
        value: str | None = self._get("WS4REDIS_PREFIX", None)
        return value

    @property
    def WS4REDIS_EXPIRE(self) -> int:
        """Seconds for which a published message stays stored; with 0 or None nothing is stored.

        A call of ``publish_message`` may say otherwise by ``expire=``.
        """
        if self._get("WS4REDIS_EXPIRE", 3600) is None:
            return 0
        return self._whole_number("WS4REDIS_EXPIRE", 3600, minimum=0)

    @property
    def WS4REDIS_HISTORY(self) -> int:
        """How many messages of a channel are kept, within their expire time; at least 1.

        Clients that come back recover from these messages, and a client that connects for the
        first time is sent them. More of them let clients be away for longer, and take more memory
        in Redis.
        """
        return self._whole_number("WS4REDIS_HISTORY", 1, minimum=1)

    @property
    def WS4REDIS_HISTORY_BYTES(self) -> int:
        """Bytes of payload that are kept of a channel; the oldest messages go first.

        The last message is kept whatever its size. A client that comes back for what has gone is
        told ``lost``, as for what ``WS4REDIS_HISTORY`` has no room for. It also bounds the memory
        that a client takes which connects and does not read.
        """
        return self._whole_number("WS4REDIS_HISTORY_BYTES", 1024 * 1024, minimum=1)

    @property
    def WS4REDIS_META_EXPIRE(self) -> int:
        """Seconds for which a channel's position lives after its last message; at least 60.

        If twice the expire time of a message is longer, that counts. A client that comes back
        within this time can be told that it has missed nothing.
        """
        return self._whole_number("WS4REDIS_META_EXPIRE", 86400, minimum=60)

    @property
    def WS4REDIS_HEARTBEAT(self) -> str | None:
        """Text that is sent to raw clients at least every four seconds, or None for no heartbeat.

        It is also sent when a raw client connects, and in answer to a client that sends it. It is
        never published, stored or relayed. Clients of the protocol ``ws4redis.v1`` have a heartbeat
        of their own.
        """
        value: str | bytes | None = self._get("WS4REDIS_HEARTBEAT", None)
        if isinstance(value, bytes):
            return value.decode()
        return value or None

    @property
    def WS4REDIS_SUBSCRIBER(self) -> str | type:
        """The subclass of ``RedisSubscriber`` that decides what each socket hears, by dotted path.

        See [the subscriber](hooks.md#the-subscriber).
        """
        value: str | type = self._get("WS4REDIS_SUBSCRIBER", None) or DEFAULT_SUBSCRIBER
        return value

    @property
    def WS4REDIS_ALLOWED_CHANNELS(self) -> Hook:
        """A function ``(request, channels)``, or its dotted path, that returns a socket's flags.

        With None every socket gets the flags it asks for. See
        [WS4REDIS_ALLOWED_CHANNELS](hooks.md#which-flags-a-socket-gets).
        """
        value: Hook = self._get("WS4REDIS_ALLOWED_CHANNELS", None)
        return value

    @property
    def WS4REDIS_FACILITIES(self) -> str:
        """What a facility is that no [policy](python.md#channels-ws4redis-facilities) names.

        With ``"open"``, sockets use it as in django-websocket-redis. With ``"strict"``, its sockets
        are refused with 403. Django code may publish on it in both cases.
        """
        value: str = self._get("WS4REDIS_FACILITIES", "open")
        if value in ("open", "strict"):
            return value
        raise ImproperlyConfigured(f"WS4REDIS_FACILITIES is {value!r}; write 'open' or 'strict'.")

    @property
    def WS4REDIS_ALLOW_PUBLISH(self) -> bool | None:
        """Whether clients may publish on facilities that no policy names.

        With True and None they may, as far as ``WS4REDIS_ALLOWED_CHANNELS`` lets them; with None,
        [check W005](checks.md) reminds you of that. With False they may not, whatever that grants.
        """
        value: bool | None = self._get("WS4REDIS_ALLOW_PUBLISH", None)
        if value is None or isinstance(value, bool):
            return value
        raise ImproperlyConfigured(f"WS4REDIS_ALLOW_PUBLISH is {value!r}; write True or False.")

    @property
    def WS4REDIS_PROCESS_REQUEST(self) -> Hook:
        """A function ``(request)``, or its dotted path, that sets the request's user and session.

        It replaces the authentication by session cookie. See
        [WS4REDIS_PROCESS_REQUEST](hooks.md#who-a-socket-is).
        """
        value: Hook = self._get("WS4REDIS_PROCESS_REQUEST", None)
        return value

    @property
    def WS4REDIS_ALLOWED_ORIGINS(self) -> Sequence[str]:
        """Origins besides the server's own whose pages may open a socket; ``["*"]`` means all.

        For example ``"https://app.example.com"``, or ``"https://*.example.com"`` for a domain and
        all below it. ``CSRF_TRUSTED_ORIGINS`` counts as well. A client that sends no ``Origin`` is
        no browser and is let in.
        """
        value: Sequence[str] | str | None = self._get("WS4REDIS_ALLOWED_ORIGINS", None)
        if isinstance(value, str):
            return [value]
        return value or ()

    @property
    def CSRF_TRUSTED_ORIGINS(self) -> Sequence[str]:
        """Django's list of origins that may send unsafe requests; their pages may open sockets."""
        value: Sequence[str] = self._get("CSRF_TRUSTED_ORIGINS", ())
        return value

    @property
    def SESSION_COOKIE_NAME(self) -> str:
        """Django's name of the session cookie, by which a socket is authenticated."""
        value: str = self._get("SESSION_COOKIE_NAME", "sessionid")
        return value

    @property
    def SESSION_ENGINE(self) -> str:
        """Django's session engine, from which the session of a socket is loaded."""
        value: str = self._get("SESSION_ENGINE", "django.contrib.sessions.backends.db")
        return value

    @property
    def SESSION_CACHE_ALIAS(self) -> str:
        """Django's name of the cache that keeps sessions; check W009 looks at it."""
        value: str = self._get("SESSION_CACHE_ALIAS", "default")
        return value

    @property
    def WS4REDIS_OUTBOX_MESSAGES(self) -> int:
        """Messages that may wait for one slow client before its socket is closed with 4002."""
        return self._whole_number("WS4REDIS_OUTBOX_MESSAGES", 2000, minimum=1)

    @property
    def WS4REDIS_OUTBOX_BYTES(self) -> int:
        """Bytes that may wait for one slow client before its socket is closed with 4002.

        Counted is what goes over the wire, or what it takes in memory if that is more: a text with
        an emoji takes four bytes for each character. A single message may be larger. The client
        comes back and recovers from the history, whose messages do not count here.
        """
        return self._whole_number("WS4REDIS_OUTBOX_BYTES", 1024 * 1024, minimum=1)

    @property
    def WS4REDIS_THREADS(self) -> int:
        """Threads of each process for hooks and for look-ups of sessions; hooks get half of them.

        Each of them may hold a connection to the database, for as long as ``CONN_MAX_AGE`` says.
        With fewer threads fewer users can log in at the same time where the session store is slow:
        a store that answers in 50 ms serves 20 users a second for each thread. A handshake that
        waits for a thread for longer than 3 seconds ends with
        [1013](closing.md#close-codes).
        """
        return self._whole_number("WS4REDIS_THREADS", 32, minimum=2)

    @property
    def WS4REDIS_MAX_SOCKETS(self) -> int | None:
        """Sockets that one process serves; None for as many as come.

        One more is closed with [1013](closing.md#close-codes). Each takes a file descriptor: a
        process that has none left can serve nobody, and so this should be below
        ``ulimit -n``.
        """
        return self._limit("WS4REDIS_MAX_SOCKETS", None)

    @property
    def WS4REDIS_MAX_SOCKETS_PER_ADDRESS(self) -> int | None:
        """Sockets in one process that one address may have, or None for any number.

        One more is closed with [1013](closing.md#close-codes). Those of users whom the package has
        looked up count for the user alone. A network of IPv6, ``/64``, is one address. See
        ``WS4REDIS_TRUSTED_PROXIES`` for which addresses count.
        """
        return self._limit("WS4REDIS_MAX_SOCKETS_PER_ADDRESS", 1000)

    @property
    def WS4REDIS_MAX_SOCKETS_PER_USER(self) -> int | None:
        """Sockets in one process that one user may have, or None for any number.

        One more is closed with [1013](closing.md#close-codes). The user is looked up for a socket
        with flags for users, auth groups or sessions, and wherever there is a hook. Few people need
        more than a dozen; the default leaves room for an account that many screens share.
        """
        return self._limit("WS4REDIS_MAX_SOCKETS_PER_USER", 1000)

    @property
    def WS4REDIS_HANDSHAKE_RATE(self) -> int | None:
        """Sockets that a process lets in per second, or None for as many as come.

        What two seconds allow may come at once. More wait for 3 seconds at most, and are then
        closed with [1013](closing.md#close-codes). One user or address gets a fourth of it.
        """
        return self._limit("WS4REDIS_HANDSHAKE_RATE", 1000)

    @property
    def WS4REDIS_PUBLISH_RATE(self) -> int | None:
        """Messages per second that a socket's client may publish, or None for any number.

        What ten seconds allow may come at once. More wait, and the server reads on when they have
        had their turns. All sockets of a user or address together get ten times as much; whoever
        would have to wait for more than 10 seconds is closed with [1013](closing.md#close-codes).
        A client that goes on sending faster than it may is dropped by the server in the end, which
        reads the answer to a ping too late. Heartbeats and pings of the client do not count.
        """
        return self._limit("WS4REDIS_PUBLISH_RATE", 200)

    @property
    def WS4REDIS_FILL_RATE(self) -> int | None:
        """Bytes per second by which one user or address may fill Redis, or None for any number.

        What 384 seconds allow, 6 MiB by default, may come at once. A client that would have to
        wait for more than 10 seconds is closed with [1013](closing.md#close-codes). A message
        counts on the first facilities that it is published on, and no longer once as much has come
        as a channel keeps, which ``WS4REDIS_HISTORY_BYTES`` bounds: a busy chat costs no more than
        its beginning, for ``WS4REDIS_EXPIRE`` seconds. A new facility costs 4 KiB in any case.
        Clients behind a proxy whose addresses are not known share it.
        """
        return self._limit("WS4REDIS_FILL_RATE", 16 * 1024)

    @property
    def WS4REDIS_TRUSTED_PROXIES(self) -> Networks | int | None:
        """Proxies whose ``X-Forwarded-For`` is believed: their networks, or how many there are.

        With ``["10.0.0.0/8", "192.0.2.1"]``, the client is the last address in the header that is
        none of these, if the connection comes from one of these or through a Unix socket. With
        ``2`` it is the last but one in the header, wherever the connection comes from; so let
        nobody reach the server past the proxies. With ``[]`` it is the address of the connection.

        With None, the default, it is the address of the connection as the server gives it, if that
        is one of the public internet. Whatever else is taken for a proxy, behind which there may be
        any number of clients, and has no limits of its own but ``WS4REDIS_FILL_RATE``. Servers may
        put in the forwarded address by themselves, see
        [addresses](../howto/deploy.md#addresses).
        """
        value = self._get("WS4REDIS_TRUSTED_PROXIES", None)
        if value is None or (type(value) is int and value > 0):
            return value
        try:
            return _networks((value,) if isinstance(value, str) else tuple(value))
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(
                f"WS4REDIS_TRUSTED_PROXIES is {value!r}; it must be a list of addresses and "
                f"networks, or the number of proxies, at least 1. ({error})"
            ) from None

    @property
    def WS4REDIS_CLOSE_WINDOW(self) -> float:
        """Seconds over which a stopping server spreads the closing of its sockets.

        Without it all clients would come back in the same moment. Under uvicorn at most half of its
        ``--timeout-graceful-shutdown`` counts: what is open after that gets no close frame.
        """
        return self._seconds("WS4REDIS_CLOSE_WINDOW", 2.0)

    @property
    def WS4REDIS_REVOKE_ON(self) -> Sequence[str]:
        """What ends sockets, or has them looked at again: some of the four below, all by default.

        ``"logout"`` closes the sockets of the session that is logged out. ``"login"`` has those of
        the session come back whose key changes at a login. ``"user"`` looks at the sockets of a
        user again who is saved, and closes those of one who is deleted. ``"groups"`` looks at the
        sockets of users again who join or leave auth groups; without it a user's groups are those
        of the last login, also for new sockets.
        """
        value: Sequence[str] = self._get("WS4REDIS_REVOKE_ON", CAUSES)
        is_list = isinstance(value, Collection) and not isinstance(value, str)
        if not is_list or any(cause not in CAUSES for cause in value):
            raise ImproperlyConfigured(
                f"WS4REDIS_REVOKE_ON is {value!r}; it must be a list of some of these: "
                f"{', '.join(CAUSES)}."
            )
        return value

    @property
    def WS4REDIS_LEGACY_SERVERS(self) -> bool:
        """True while servers of django-websocket-redis share this Redis, in every process.

        Messages then go both ways, once. It costs a second ``PUBLISH`` for each message, and needs
        ``channels_ws4redis.layers.RedisChannelLayer`` without ``hosts`` of its own.
        """
        return bool(self._get("WS4REDIS_LEGACY_SERVERS", False))


@lru_cache(maxsize=8)
def _networks(names: tuple[str, ...]) -> Networks:
    if not all(isinstance(name, str) for name in names):
        raise TypeError("not all of them are texts")
    return tuple(ip_network(name) for name in names)


settings = Settings()

#: The names of all settings that the package reads.
NAMES = sorted(name for name, value in vars(Settings).items() if isinstance(value, property))
