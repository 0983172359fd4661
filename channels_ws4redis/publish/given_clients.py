"""Clients of redis-py that a project gives to its publishers and subscribers. Private."""

from __future__ import annotations

import logging
from typing import Any

import redis
from redis.sentinel import SentinelConnectionPool

from channels_ws4redis.store.process import get_client

logger = logging.getLogger(__name__)

#: Names of the machine itself.
_LOCAL = {"127.0.0.1", "::1", None}

#: The pairs of addresses of which the log has a line already.
_told: set[tuple[str, str]] = set()


def client_given_to(store: object) -> Any:
    """Return the client that a `RedisStore` was given, None if it has the process's own."""
    return vars(store).get("_connection")


def tell_if_elsewhere(store: object) -> None:
    """Write into the log, once, if a store was given a client of another Redis than the sockets'.

    It is no error: who publishes may mean the sockets of another site, and two addresses may lead
    to one server.
    """
    client = client_given_to(store)
    if not isinstance(getattr(client, "connection_pool", None), redis.ConnectionPool):
        return  # none was given, or what is refused when it is used
    addresses = _address(client), _address(get_client())
    if addresses[0] != addresses[1] and addresses not in _told:
        _told.add(addresses)
        logger.warning(
            "%s has a client of the Redis at %s, but the sockets here hear the one at %s; set "
            "WS4REDIS_CONNECTION, or give it no client",
            type(store).__name__,
            *addresses,
        )


def _address(client: Any) -> str:
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return str(pool.service_name)
    arguments = pool.connection_kwargs
    if "path" in arguments:
        return str(arguments["path"])
    host = arguments.get("host")
    return f"{'localhost' if host in _LOCAL else host}:{arguments.get('port', 6379)}"
