"""Sentinels, asked where the primary is; some of them may be silent.

redis-py asks one sentinel after the other, each for as long as the connections to Redis may take,
and goes through a list that other threads change meanwhile. An address that swallows what is sent
to it, as that of a machine that is gone does, kept every socket from being opened.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import redis.asyncio.sentinel
import redis.sentinel

#: What a sentinel may raise that is gone, silent, or none.
_FAILURES = (redis.exceptions.RedisError, OSError)

Address = tuple[str, int]


class Sentinels(redis.sentinel.Sentinel):
    """Asks one after the other, and first the one that knew the primary the last time."""

    def discover_master(self, service_name: str) -> Address:
        """Return the address of the primary.

        :raises redis.sentinel.MasterNotFoundError: if no sentinel knows one.
        """
        failures = []
        for sentinel in self.sentinels:
            try:
                address = _primary(self, sentinel.sentinel_masters(), service_name)
            except _FAILURES as error:
                failures.append(f"{_name(sentinel)}: {error}")
            else:
                # Another list, as other threads may be going through this one.
                self.sentinels = sorted(self.sentinels, key=lambda other: other is not sentinel)
                return address
            finally:
                # Until it is asked again, a firewall may have forgotten the connection.
                sentinel.connection_pool.disconnect(inuse_connections=False)
        raise redis.sentinel.MasterNotFoundError(_report(service_name, failures))


class AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """Asks all at once, and takes the first answer."""

    async def discover_master(self, service_name: str) -> Address:
        """Return the address of the primary; asyncio twin of that of `Sentinels`.

        :raises redis.asyncio.sentinel.MasterNotFoundError: if no sentinel knows one.
        """
        failures = []
        asked = [asyncio.create_task(self._ask(each, service_name)) for each in self.sentinels]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except _FAILURES as error:
                    failures.append(str(error))
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise redis.asyncio.sentinel.MasterNotFoundError(_report(service_name, failures))

    async def _ask(self, sentinel: Any, service_name: str) -> Address:
        try:
            return _primary(self, await sentinel.sentinel_masters(), service_name)
        except _FAILURES as error:
            raise redis.exceptions.ConnectionError(f"{_name(sentinel)}: {error}") from error
        finally:
            with contextlib.suppress(*_FAILURES):
                await sentinel.connection_pool.disconnect(inuse_connections=False)


def _primary(sentinels: Any, masters: Any, service_name: str) -> Address:
    state = masters.get(service_name)
    if state is None:
        raise redis.exceptions.ConnectionError("does not watch over this service")
    if not sentinels.check_master_state(state, service_name):
        raise redis.exceptions.ConnectionError("takes the primary to be down")
    return state["ip"], state["port"]


def _name(sentinel: Any) -> str:
    return "{host}:{port}".format_map(sentinel.connection_pool.connection_kwargs)


def _report(service_name: str, failures: list[str]) -> str:
    return f"No sentinel knows the primary of {service_name!r} ({', '.join(failures)})."
