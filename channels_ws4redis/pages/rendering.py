"""The positions of a page whose template tag has no stamp: as it is rendered. Private."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation

from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.pages.positions import Channels, JsonPositions, Readings, channels_of
from channels_ws4redis.protocol.names import BROADCAST
from channels_ws4redis.store.loops import running_loop, this_loop
from channels_ws4redis.store.silence import NoAnswerError

logger = logging.getLogger(__name__)

#: Seconds for which an event loop may stand still while Redis is asked for a page.
PATIENCE = 0.05


def positions(request: Any, facility: Any, flags: Sequence[str]) -> JsonPositions:
    """Return the positions of what a request would listen on, by label; none that is not known.

    A page is worth more than its positions: without them its socket gets the stored messages.

    :param flags: those of the socket.
    """
    found = _channels(request, facility, flags)
    return found.positions(_read(found))


def _channels(request: Any, facility: Any, flags: Sequence[str]) -> Channels:
    try:
        return channels_of(request, facility, flags)
    except SynchronousOnlyOperation:
        # Not in a thread: it would have another connection to the database than the view, on which
        # what a transaction has written, as that of a test, is not there.
        logger.warning(
            "An asynchronous view renders a page whose visitor has still to be loaded: only "
            "broadcasts are stamped; pass at=await astamp(…), which loads the visitor"
        )
    return channels_of(None, facility, [flag for flag in flags if flag.endswith(f"-{BROADCAST}")])


def _read(found: Channels) -> Readings:
    if running_loop() is None:
        return found.backend.read(found.names, position_only=True)
    return this_loop().get(LoopReader, LoopReader).read(found.backend, found.names)


class LoopReader:
    """Reads for the pages that are rendered on an event loop, which must not stand still for long.

    Rendering cannot wait in the way of asyncio. So the loop does stand still for a reading, as it
    does for all else in a template; but only for a moment if Redis is silent, and then not again
    before that reading has come to its end. A stamp is taken without any of this.
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
        return [NoAnswerError(f"Redis has not answered within {PATIENCE} seconds.")]


def _fulfil(future: Future[Readings], backend: Backend, names: Sequence[str]) -> None:
    try:
        future.set_result(backend.read(names, position_only=True))
    except BaseException as error:  # noqa: BLE001 # whoever waits gets it
        future.set_exception(error)
