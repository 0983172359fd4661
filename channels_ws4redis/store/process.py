"""What there is once per process: the synchronous client, its connections, a loop for layers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import redis
from django.core.signals import setting_changed

from channels_ws4redis.store.clients import Pool, make_client

T = TypeVar("T")

#: The keys of the process's own objects.
CLIENT, BACKGROUND_LOOP = "client", "background loop"


class Process:
    """Owns what belongs to one process. A forked child begins with an empty one."""

    def __init__(self, generation: int = 0) -> None:
        #: Changes whenever connections have to be made anew.
        self.generation = generation
        self._owned: dict[Hashable, Any] = {}
        self._pools: WeakKeyDictionary[redis.ConnectionPool, Pool] = WeakKeyDictionary()
        # Reentrant, as making one object may ask for another.
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the process's object of this key, made once, when it is first asked for."""
        if key not in self._owned:
            with self._lock:
                if key not in self._owned:
                    self._owned[key] = make()
        owned: T = self._owned[key]
        return owned

    def find(self, key: Hashable) -> Any:
        """Return the process's object of this key, None if it has not been made."""
        return self._owned.get(key)

    def pool_of(self, client: Any) -> Pool:
        """Return the package's own connections to the Redis of a client.

        Clients that share a pool of redis-py share these too.

        :raises TypeError: if it is no synchronous client of redis-py.
        """
        model = getattr(client, "connection_pool", None)
        if not isinstance(model, redis.ConnectionPool):
            raise TypeError(
                f"connection={client!r} has no connection pool of redis-py; "
                "pass a redis.Redis, or nothing to use WS4REDIS_CONNECTION."
            )
        pool = self._pools.get(model)
        if pool is None:
            with self._lock:
                pool = self._pools.setdefault(model, Pool(model))
        return pool

    def forget_connections(self) -> None:
        """Make everything that connects from now on read the settings anew."""
        with self._lock:
            self.generation += 1
            client = self._owned.pop(CLIENT, None)
            pool = self._pools.pop(client.connection_pool, None) if client is not None else None
        if pool is not None:
            pool.close()


_process = Process()


def this_process() -> Process:
    """Return what belongs to this process."""
    return _process


def get_client() -> redis.Redis:
    """Return the process's synchronous client, which any thread may use."""
    return _process.get(CLIENT, make_client)


def is_own_client(client: Any) -> bool:
    """Tell whether a client is the one that `get_client` returns."""
    return client is not None and client is _process.find(CLIENT)


def forget_connections() -> None:
    """Make everything that connects from now on read the settings anew."""
    _process.forget_connections()


def background_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a daemon thread for as long as the process lives.

    Synchronous code drives asynchronous channel layers on it, whose connections belong to a loop.
    """
    return _process.get(BACKGROUND_LOOP, _start_loop)


def _start_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ws4redis-layer", daemon=True).start()
    return loop


def _begin_anew() -> None:
    """Leave a forked child nothing of its parent's.

    The connections and the thread of the loop are the parent's, and another thread may have held
    the lock at the fork. A connection that is dropped here stays open in the parent.
    """
    global _process
    _process = Process(_process.generation)


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting == "WS4REDIS_CONNECTION":
        forget_connections()


setting_changed.connect(_on_setting_changed)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_begin_anew)
