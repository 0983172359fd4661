"""Every setting of the package, read from Django's settings at the moment it is used. Private.

The manual's page of settings, docs/reference/settings.md, is made from this package: the docstring
of each property is its text there, in Markdown, and its default is what the property returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from channels_ws4redis.conf.limits import Limits
from channels_ws4redis.conf.permissions import Permissions
from channels_ws4redis.conf.publishing import Publishing
from channels_ws4redis.conf.reading import improper
from channels_ws4redis.protocol.history import REPLAY_REMEDY, Replay, is_replay

DEFAULT_CONNECTION = {"host": "localhost", "port": 6379, "db": 0, "password": None}
DEFAULT_SUBSCRIBER = "channels_ws4redis.subscriber.RedisSubscriber"

#: What the URLs begin with that redis-py understands.
SCHEMES = ("redis://", "rediss://", "unix://")

#: Seconds, some thirty years. Redis refuses an expire time that overflows its clock, and would do
#: so in the middle of the script that publishes.
MAX_EXPIRE = 10**9

#: Messages in a history, more than anybody has memory for. The script that publishes takes larger
#: numbers in its notes for something that others have written.
MAX_HISTORY = 10**8

#: What a project writes to have the package's own channel layer.
OWN_LAYER = (
    "CHANNEL_LAYERS = {'default': {'BACKEND': 'channels_ws4redis.layers.RedisChannelLayer'}}"
)


class Settings(Publishing, Permissions, Limits):
    """One lazy, typed property per setting."""

    @property
    def WEBSOCKET_URL(self) -> str:
        """Path prefix of every socket; what follows it is the facility.

        With ``"/ws/"``, a socket at ``/ws/chat`` is on the facility ``chat``. A leading slash may
        be left out. Nothing is put at the end: with ``"/stream"``, a socket at ``/stream/chat`` is
        on the facility ``/chat``, and ``/streamchat`` on ``chat``. For a project that is served
        [below a path](../howto/deploy.md#below-a-path), it is written with that path or without.
        """
        value = self._get("WEBSOCKET_URL", "/ws/")
        if not isinstance(value, str) or re.search(r"[?#]|://", value):
            raise improper("WEBSOCKET_URL", value, "the path of an address, such as '/ws/'")
        return "/" + value.lstrip("/")

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
        if isinstance(value, Mapping) or (isinstance(value, str) and value.startswith(SCHEMES)):
            return value
        # Without the password that may stand before the place.
        shown = value.rpartition("@")[2] if isinstance(value, str) else value
        raise improper("WS4REDIS_CONNECTION", shown, "a dict or a redis:// URL")

    @property
    def WS4REDIS_PREFIX(self) -> str | None:
        """Put before every channel name, with a colon, to share one Redis with other services."""
        value: str | None = self._get("WS4REDIS_PREFIX", None)
        if value is None or isinstance(value, str):
            return value
        raise improper("WS4REDIS_PREFIX", value, "a text, such as 'mysite', or None")

    @property
    def WS4REDIS_EXPIRE(self) -> int:
        """Seconds for which a message stays stored for clients that come later; with 0 or None not.

        Those that come back recover from the history, which has [a life of its
        own](#ws4redis-history-expire). A call of ``publish_message`` may say otherwise by
        ``expire=``.
        """
        if self._get("WS4REDIS_EXPIRE", 3600) is None:
            return 0
        return self._whole_number("WS4REDIS_EXPIRE", 3600, 0, MAX_EXPIRE)

    @property
    def WS4REDIS_REPLAY(self) -> Replay:
        """What a client is sent that comes for the first time, of each of its channels.

        ``"last"`` is the stored message, as in django-websocket-redis, and ``"none"`` nothing.
        ``"all"`` are all messages in the history that have not passed their expire time, and a
        number is that many of these, the last ones. Policies may say otherwise by ``replay=``.
        """
        value: Any = self._get("WS4REDIS_REPLAY", "last")
        if is_replay(value):
            return value
        raise improper("WS4REDIS_REPLAY", value, REPLAY_REMEDY)

    @property
    def WS4REDIS_HISTORY(self) -> int:
        """Messages of a channel from which clients recover that come back; at least 1.

        It is the last ones, for ``WS4REDIS_HISTORY_EXPIRE`` seconds, whether or not they are stored
        for clients that come later. More of them let clients be away for longer, and take more
        memory in Redis. Where publishers ask for different numbers on one channel, it keeps the
        most.
        """
        return self._whole_number("WS4REDIS_HISTORY", 100, 1, MAX_HISTORY)

    @property
    def WS4REDIS_HISTORY_EXPIRE(self) -> int:
        """Seconds for which a channel's history is kept after its last message; at least 1.

        A client that is away for longer is told ``lost`` if it has missed anything.
        """
        return self._whole_number("WS4REDIS_HISTORY_EXPIRE", 300, 1, MAX_EXPIRE)

    @property
    def WS4REDIS_HISTORY_BYTES(self) -> int:
        """Bytes of payload in the history of a channel; the oldest messages go first.

        The last message is kept whatever its size. A client that comes back for what has gone is
        told ``lost``, as for what ``WS4REDIS_HISTORY`` has no room for. It also bounds the memory
        that a client takes which connects and does not read.
        """
        return self._whole_number("WS4REDIS_HISTORY_BYTES", 1024 * 1024, minimum=1)

    @property
    def WS4REDIS_META_EXPIRE(self) -> int:
        """Seconds for which a channel's position lives after its last message; at least 60.

        If twice the expire time of a message or of the history is longer, that counts. A client
        that comes back within this time can be told that it has missed nothing.
        """
        return self._whole_number("WS4REDIS_META_EXPIRE", 86400, 60, MAX_EXPIRE)

    @property
    def WS4REDIS_HEARTBEAT(self) -> str | None:
        """Text that is sent to raw clients at least every four seconds, or None for no heartbeat.

        It is also sent when a raw client connects, and in answer to a client that sends it. It is
        never published, stored or relayed. Clients of the protocol ``ws4redis.v1`` have a heartbeat
        of their own.
        """
        value: str | bytes | None = self._get("WS4REDIS_HEARTBEAT", None)
        if value is None or isinstance(value, str):
            return value or None
        try:
            return value.decode() or None
        except (AttributeError, UnicodeDecodeError):
            raise improper("WS4REDIS_HEARTBEAT", value, "a text, or None") from None

    @property
    def WS4REDIS_SUBSCRIBER(self) -> str | type:
        """The subclass of ``RedisSubscriber`` that decides what each socket hears, by dotted path.

        See [the subscriber](hooks.md#the-subscriber).
        """
        value: str | type | None = self._get("WS4REDIS_SUBSCRIBER", None)
        if value is None or isinstance(value, str | type):
            return value or DEFAULT_SUBSCRIBER
        raise improper(
            "WS4REDIS_SUBSCRIBER", value, "a subclass of RedisSubscriber, or its dotted path"
        )

    @property
    def WS4REDIS_CLOSE_WINDOW(self) -> float:
        """Seconds over which a stopping server spreads the closing of its sockets.

        Without it all clients would come back in the same moment. Under uvicorn at most half of its
        ``--timeout-graceful-shutdown`` counts: what is open after that gets no close frame.
        """
        return self._seconds("WS4REDIS_CLOSE_WINDOW", 2.0)

    @property
    def WS4REDIS_LEGACY_SERVERS(self) -> bool:
        """True while servers of django-websocket-redis share this Redis, in every process.

        Messages then go both ways, once. It costs a second ``PUBLISH`` for each message, and needs
        ``channels_ws4redis.layers.RedisChannelLayer`` without ``hosts`` of its own.
        """
        return bool(self._flag("WS4REDIS_LEGACY_SERVERS"))


settings = Settings()

#: The property of each setting by its name, in the order of the page of settings.
PROPERTIES = {
    name: value
    for part in Settings.__mro__
    for name, value in vars(part).items()
    if isinstance(value, property)
}

#: The names of all settings that the package reads.
NAMES = sorted(PROPERTIES)
