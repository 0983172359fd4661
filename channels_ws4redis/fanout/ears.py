"""What is published for a socket while it is still connecting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.groups import FanOut, get_fanout
from channels_ws4redis.fanout.held import Entry
from channels_ws4redis.protocol.history import Lost, Outcome
from channels_ws4redis.protocol.messages import Event


class Ear:
    """Listens in place of a socket until that goes live, as far as its subscriber has come.

    In legacy a hook that has subscribed and then publishes reaches its own socket. A reading alone
    would not do: it has neither what is not stored, nor what was the last message for a moment.

    :param layer: the channel layer that the socket is going to listen on.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._loop = asyncio.get_running_loop()
        #: Had when it first listens: one that nobody listens on is given up.
        self._fanout: FanOut | None = None
        self._events: list[Event] = []
        self._bytes = 0
        self._stopped = False
        #: What the hook's thread waits for.
        self._listening: Future[None] | None = None
        #: Nothing is sent to it that is not published.
        self.replayed = False

    def listen(self, channels: Iterable[str]) -> None:
        """Listen on these channels and no others; in another thread, return once that has effect.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        work = self._listen(list(channels))
        listening = self._listening = asyncio.run_coroutine_threadsafe(work, self._loop)
        if self._stopped:
            listening.cancel()  # the event loop may have ended, and would never answer
        with suppress(CancelledError):
            listening.result()

    async def _listen(self, channels: Sequence[str]) -> None:
        if self._stopped:
            return
        fanout = self._fanout = self._fanout or get_fanout(self._layer)
        added = fanout.leave_others(self, channels)
        try:
            await fanout.join(self, added)
            await fanout.enter(self, added, self._start)
        finally:
            self._leave_if_stopped()  # meanwhile

    def _start(self, entries: Sequence[Entry]) -> None:
        for _, after in entries:
            for event in after:
                self.deliver(event)

    def deliver(self, event: Event) -> None:
        """Take a message."""
        self._events.append(event)
        self._bytes += len(event.payload)
        too_many = len(self._events) > settings.WS4REDIS_OUTBOX_MESSAGES
        if too_many or self._bytes > settings.WS4REDIS_OUTBOX_BYTES:
            self.stop()  # the socket gets what is stored

    def recover(self, items: Outcome) -> None:
        """Take what the group had missed; a socket without positions is not told of losses."""
        for item in items:
            if not isinstance(item, Lost):
                self.deliver(item)

    def end(self, error: Exception) -> None:
        """Stop, as Redis refuses one of the channels; it refuses that to the socket as well."""
        self.stop()

    def hand_over(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return what a socket gets that goes live now, with all that was heard; and stop.

        :param entries: what its readings have found.
        """
        due = [] if self._fanout is None else self._fanout.due_to(self)
        heard: dict[str, list[Event]] = {}
        for event in [*self._events, *due]:
            heard.setdefault(event.channel, []).append(event)
        self.stop()
        return [_with_heard(entry, heard.get(entry.reading.channel, [])) for entry in entries]

    def stop(self) -> None:
        """Listen no more, and forget what was heard."""
        self._stopped = True
        if self._listening is not None:
            self._listening.cancel()  # or its thread might wait until after the event loop's end
        self._events = []
        self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self._stopped and self._fanout is not None:
            self._fanout.leave(self)


def _with_heard(entry: Entry, heard: Sequence[Event]) -> Entry:
    """Return what a socket gets of a channel on which an ear has heard these messages."""
    if not heard:
        return entry
    numbers = {(event.epoch, event.offset) for event in heard if event.offset}
    before = [e for e in entry.reading.replay() if (e.epoch, e.offset) not in numbers]
    value = entry.reading.value if entry.reading.value in before else None
    # What has come since the reading is among what was heard.
    return Entry(entry.reading._replace(stored=before, value=value), heard)
