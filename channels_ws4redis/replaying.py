"""Replaying by the project's own code: an overridden ``send_persisted_messages``. Private."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from channels_ws4redis.exceptions import WebSocketError
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.handshake import hooks
from channels_ws4redis.protocol.messages import Event, Frame

#: Seconds that a hook's ``websocket.send`` waits for a client that does not read.
SEND_TIMEOUT = 5.0


async def replay_by_hook(hook: Callable[[Any], None], socket: Socket) -> None:
    """Have an overridden method send what is stored, then send what was held back meanwhile.

    :param socket: holds back what is published.
    :raises Exception: whatever the hook raises.
    """
    websocket = HookSocket(socket)
    await hooks.run(hook, websocket)
    # What was published while the hook ran may be among what the hook has read and sent.
    socket.let_go(websocket.sent)


class HookSocket:
    """What an overridden ``send_persisted_messages`` gets as ``websocket``, to use in its thread.

    :param socket: the socket; made on the event loop that the socket lives on.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        #: Every payload sent so far.
        self.sent: list[bytes] = []

    @property
    def closed(self) -> bool:
        """True once the client has gone."""
        return self._socket.outbox.closed

    def send(self, message: str | bytes | bytearray, binary: bool | None = None) -> None:
        """Send a message, and wait until the server has taken the ones before, as legacy does.

        :param binary: True for a binary frame, False for a text frame; by default a message goes
            out as text if it is UTF-8.
        :raises channels_ws4redis.exceptions.WebSocketError: if the client has gone or is too slow.
        """
        payload = message.encode() if isinstance(message, str) else bytes(message)
        sending = asyncio.run_coroutine_threadsafe(self._send(payload, binary), self._loop)
        sending.result()

    async def _send(self, payload: bytes, binary: bool | None) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._socket.outbox.flush()
        except TimeoutError:
            raise WebSocketError("The client does not read.") from None
        if self.closed:
            raise WebSocketError("The client has gone.")
        self.sent.append(payload)
        self._socket.outbox.put(self._frame(payload, binary))

    def _frame(self, payload: bytes, binary: bool | None) -> Frame:
        event = Event("", payload)
        if self._socket.labels is not None:
            return event.protocol_frame("other")
        if binary is None:
            return event.raw_frame
        if binary:
            return {"type": "websocket.send", "bytes": payload}
        return {"type": "websocket.send", "text": payload.decode()}
