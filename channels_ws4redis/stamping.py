"""The stamp of a page: where the channels of its visitor stand when it is rendered. Private."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import redis
from django.core.exceptions import SynchronousOnlyOperation

from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.names import BROADCAST, audience_arguments, channel_labels
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.store.loops import running_loop, this_loop
from channels_ws4redis.subscriber import RedisSubscriber

logger = logging.getLogger(__name__)

#: Seconds for which an event loop may stand still while Redis is asked for a page.
PATIENCE = 0.2

Readings = list[Reading | Exception]


def positions(request: Any, facility: Any, flags: Sequence[str]) -> dict[str, Any] | None:
    """Return the positions of what a request would listen on, by label; None if none is known.

    A page is worth more than its stamp: without one its socket gets the stored messages.

    :param flags: those of the socket.
    """
    store = RedisSubscriber()
    names = _channels(store, request, facility, flags)
    labels = channel_labels(store.get_prefix(), names)
    found = {}
    for reading in _read(backend_named(store.channel_layer_alias), names):
        if isinstance(reading, Exception):
            logger.error("A page could not be stamped with positions: %s", reason_of(reading))
        else:
            found[labels[reading.channel]] = reading.position._asdict()
    return found or None


def _channels(
    store: RedisSubscriber, request: Any, facility: Any, flags: Sequence[str]
) -> list[str]:
    try:
        return store._get_message_channels(
            request=request, facility=facility, **audience_arguments("subscribe", flags)
        )
    except SynchronousOnlyOperation:
        # Not in a thread: it would have another connection to the database than the view, on which
        # what a transaction has written, as that of a test, is not there.
        logger.warning(
            "An asynchronous view renders a page whose visitor has still to be loaded: only "
            "broadcasts are stamped; write request.user = await request.auser() before, or render "
            "in sync_to_async"
        )
    broadcast = f"subscribe-{BROADCAST}" in flags
    return store._get_message_channels(facility=facility, broadcast=broadcast)


def _read(backend: Backend, names: Sequence[str]) -> Readings:
    if running_loop() is None:
        return backend.read(names, position_only=True)
    return this_loop().get(LoopReader, LoopReader).read(backend, names)


class LoopReader:
    """Reads for the pages that are rendered on an event loop, which must not stand still for long.

    Rendering cannot wait in the way of asyncio. So the loop does stand still for a reading, as it
    does for all else in a template; but only briefly if Redis is silent, and then not again before
    that reading has come to its end.
    """

    def __init__(self) -> None:
        self._last: Future[Readings] | None = None

    def read(self, backend: Backend, names: Sequence[str]) -> Readings:
        """Return what `Backend.read` does, or an error if that takes too long."""
        if self._last is None or self._last.done():
            self._last = Future()
            work = (self._last, backend, names)
            threading.Thread(target=_fulfil, args=work, name="ws4redis-page", daemon=True).start()
            try:
                return self._last.result(PATIENCE)
            except TimeoutError:
                pass
        late = redis.exceptions.TimeoutError(f"Redis has not answered within {PATIENCE} seconds.")
        return [late] if names else []


def _fulfil(future: Future[Readings], backend: Backend, names: Sequence[str]) -> None:
    try:
        future.set_result(backend.read(names, position_only=True))
    except BaseException as error:  # noqa: BLE001 # whoever waits gets it
        future.set_exception(error)
