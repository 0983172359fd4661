"""Running the project's own code: settings that name a callable, and overridden methods."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import iscoroutinefunction
from channels.db import DatabaseSyncToAsync
from django.utils.module_loading import import_string

from channels_ws4redis.exceptions import WebSocketError
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.messages import Event, Frame

#: Seconds that a hook's ``websocket.send`` waits for a client that does not read.
SEND_TIMEOUT = 5.0

#: Hooks of one socket run one after the other, those of different sockets side by side: many wait
#: for a database or another service, and under gevent they did not wait for each other either.
_threads = ThreadPoolExecutor(16, thread_name_prefix="ws4redis-hook")


async def call(hook: Callable[..., Any] | str, *args: Any) -> Any:
    """Call a hook, given as a callable or its dotted path, and return its result.

    A synchronous one runs in a worker thread, where it may use the ORM; a generator is consumed
    there as well.

    :raises Exception: whatever the hook raises, or ImportError if it cannot be found.
    """
    function = import_string(hook) if isinstance(hook, str) else hook
    if not callable(function):
        raise TypeError(f"the hook {hook!r} is not callable")
    if iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 # asks for the type of the method
    ):
        return await function(*args)
    result = await run(_consume, function, *args)
    # A lambda or a decorator may hide that the function behind it is asynchronous.
    return await result if inspect.isawaitable(result) else result


async def run(function: Callable[..., Any], *args: Any) -> Any:
    """Run blocking code of the project in a worker thread, where it may use the ORM."""
    return await DatabaseSyncToAsync(function, thread_sensitive=False, executor=_threads)(*args)


def _consume(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    return list(result) if inspect.isgenerator(result) else result


def overrides(instance: object, base: type, *names: str) -> bool:
    """Tell whether the class of ``instance`` has one of these methods of its own."""
    cls = type(instance)
    return any(getattr(cls, name, None) is not getattr(base, name) for name in names)


class HookSocket:
    """What an overridden ``send_persisted_messages`` gets as ``websocket``, to use in its thread.

    :param recipient: the socket; made on the event loop that it lives on.
    """

    def __init__(self, recipient: Recipient) -> None:
        self._recipient = recipient
        self._loop = asyncio.get_running_loop()
        #: Every payload sent so far.
        self.sent: list[bytes] = []

    @property
    def closed(self) -> bool:
        """True once the client has gone."""
        return self._recipient.outbox.closed

    def send(self, message: str | bytes | bytearray, binary: bool | None = None) -> None:
        """Send a message and wait, as legacy does, until the server has taken it.

        :param binary: True for a binary frame, False for a text frame; by default what is UTF-8
            goes out as text.
        :raises channels_ws4redis.exceptions.WebSocketError: if the client has gone or is too slow.
        """
        payload = message.encode() if isinstance(message, str) else bytes(message)
        sending = asyncio.run_coroutine_threadsafe(self._send(payload, binary), self._loop)
        sending.result()

    async def _send(self, payload: bytes, binary: bool | None) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._recipient.outbox.flush()
        except TimeoutError:
            raise WebSocketError("The client does not read.") from None
        if self.closed:
            raise WebSocketError("The client has gone.")
        self.sent.append(payload)
        self._recipient.outbox.put(self._frame(payload, binary))

    def _frame(self, payload: bytes, binary: bool | None) -> Frame:
        event = Event("", payload)
        if self._recipient.labels is not None:
            return event.protocol_frame("other")
        if binary is None:
            return event.raw_frame
        if binary:
            return {"type": "websocket.send", "bytes": payload}
        return {"type": "websocket.send", "text": payload.decode()}
