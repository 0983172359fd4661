"""The settings that bound what clients may have of a process and of Redis. Private."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from channels_ws4redis.conf.reading import Reader, improper

Networks = tuple[IPv4Network | IPv6Network, ...]


class Limits(Reader):
    """How much clients may have."""

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
        waits for a thread for longer than 3 seconds, or until it is 4 seconds old, ends with
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
    def WS4REDIS_MAX_SUBSCRIPTIONS(self) -> int:
        """Subscriptions that one socket may have, its URL's own among them.

        One more is [refused](protocol.md#refused) with 1008. With 1, sockets take no further ones.
        Each counts as a socket, and its beginning as a handshake, wherever a setting limits these.
        """
        return self._whole_number("WS4REDIS_MAX_SUBSCRIPTIONS", 100, minimum=1)

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
        counts on each channel that it is published on, and no longer once as much has come there
        as a channel keeps, which ``WS4REDIS_HISTORY_BYTES`` bounds: a busy chat costs no more than
        its beginning, for as long as its messages are kept. A new channel costs 4 KiB in any case.
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
            remedy = "a list of addresses and networks, or the number of proxies, at least 1"
            raise improper("WS4REDIS_TRUSTED_PROXIES", value, f"{remedy} ({error})") from None


@lru_cache(maxsize=8)
def _networks(names: tuple[str, ...]) -> Networks:
    if not all(isinstance(name, str) for name in names):
        raise TypeError("not all of them are texts")
    return tuple(ip_network(name) for name in names)
