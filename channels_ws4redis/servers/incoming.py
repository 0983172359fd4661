"""What a server tells its application about one socket, and the word that its client has gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

#: What an ASGI server tells its application.
AsgiEvent = dict[str, Any]

#: Seconds of a handshake before its client is watched. Nearly all handshakes end sooner, and an
#: event that is awaited takes 1.3 KiB until it comes.
WATCH_AFTER = 0.1


class ClientGoneError(Exception):
    """The client has gone in the middle of what was done for it."""


class Incoming:
    """The events of one socket, in their order.

    While something that takes long is done for the client, the next event is awaited in a task of
    its own, as it may say that the client has gone. An event that says something else is kept until
    its turn comes. A ``receive`` that has begun is not cancelled as long as the socket lives: no
    server says what becomes of the event then.

    :param receive: what the consumer was given.
    """

    __slots__ = ("_cut", "_next", "_receive")

    def __init__(self, receive: Callable[[], Awaitable[AsgiEvent]]) -> None:
        self._receive = receive
        #: Awaits the next event; None if nobody has been interested in advance.
        self._next: asyncio.Future[AsgiEvent] | None = None
        #: Cuts off what is done for the client at the moment, if it is of no use without it.
        self._cut: Callable[[], None] | None = None

    def _look_ahead(self) -> asyncio.Future[AsgiEvent]:
        if self._next is None:
            self._next = asyncio.ensure_future(self._receive())
        return self._next

    async def take(self) -> AsgiEvent:
        """Wait for the next event. Whoever cancels that may still take it later."""
        if self._next is None:
            return await self._receive()
        following = self._next
        try:
            await following
        finally:
            if following.cancelled():
                self._next = None
        return self._taken(following)

    async def take_soon(self, patience: float) -> AsgiEvent | None:
        """Return the next event, or None if the server has none to hand over.

        :param patience: seconds for the server to come up with it.
        """
        following = self._look_ahead()
        await asyncio.wait([following], timeout=patience)
        return self._taken(following) if following.done() else None

    def _taken(self, event: asyncio.Future[AsgiEvent]) -> AsgiEvent:
        self._next = None
        return event.result()

    def let_go(self) -> None:
        """Cut off what is `watched` at once: the client has gone, or the socket is being closed."""
        if self._cut is not None:
            self._cut()

    @contextlib.contextmanager
    def watched(self, at_once: bool) -> Iterator[None]:
        """Cancel what the body waits for as soon as the client goes.

        Its word remains the next event. A client that sends something and goes then is noticed
        only after what it has sent was taken, or by `let_go`.

        :param at_once: or else only if the body takes long, and not by `let_go`.
        :raises ClientGoneError: then.
        """
        task = running_task()
        cancellations, gone, watching = task.cancelling(), False, True

        def cut() -> None:
            nonlocal gone
            if watching and not gone:
                gone = True
                task.cancel()

        def on_event(event: asyncio.Future[AsgiEvent]) -> None:
            if _is_disconnect(event):
                cut()

        self._cut = cut if at_once else None
        timer = asyncio.get_running_loop().call_later(
            0 if at_once else WATCH_AFTER, lambda: self._look_ahead().add_done_callback(on_event)
        )
        try:
            yield
        except BaseException:
            # If others have cancelled the task as well, that goes on.
            if not gone or task.uncancel() > cancellations:
                raise
            raise ClientGoneError from None
        else:
            if gone:  # and the body has taken no notice
                task.uncancel()
                raise ClientGoneError
        finally:
            watching, self._cut = False, None
            timer.cancel()

    def close(self) -> None:
        """Await nothing any more, at the end of the socket."""
        if self._next is not None:
            self._next.cancel()


def running_task() -> asyncio.Task[Any]:
    """Return the task that calls this; what runs on an event loop runs in one, callbacks apart."""
    task = asyncio.current_task()
    assert task is not None
    return task


def _is_disconnect(event: asyncio.Future[AsgiEvent]) -> bool:
    if event.cancelled() or event.exception() is not None:
        return False
    return bool(event.result()["type"] == "websocket.disconnect")
