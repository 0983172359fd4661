"""What the client of a socket sends, frame by frame. Private."""

from __future__ import annotations

from collections import deque
from typing import Any

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.client_frames import (
    ProtocolError,
    parse_frames,
    parse_id,
    parse_payload,
    parse_positions,
    parse_subscribe,
)
from channels_ws4redis.protocol.texts import is_longer
from channels_ws4redis.serving.ending import EndingConsumer
from channels_ws4redis.serving.open_socket import OpenSocket, State
from channels_ws4redis.serving.verdicts import FAULTS, TOO_BIG, for_frame


class ReceivingConsumer(EndingConsumer):
    """The part of the consumer that takes frames of the client."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take a frame from the client."""
        socket = self._socket
        if socket is None or self._state is State.CLOSED:
            return
        if is_longer(text_data or bytes_data or b"", settings.WS4REDIS_MAX_MESSAGE):
            await self._close(codes.MESSAGE_TOO_BIG, TOO_BIG)
            return
        try:
            if text_data is None:
                await socket.publish(bytes_data or b"")
            elif socket.speaks_protocol:
                await self._take_all(socket, deque(parse_frames(text_data)))
            else:
                await socket.publish(text_data.encode())
        except FAULTS as error:
            code, why, reason = for_frame(error)
            await self._close(code, why, reason=reason)

    async def _take_all(self, socket: OpenSocket, frames: deque[dict[str, Any]]) -> None:
        while frames and self._state is not State.CLOSED:
            await self._take(socket, frames.popleft(), frames)

    async def _take(
        self, socket: OpenSocket, body: dict[str, Any], rest: deque[dict[str, Any]]
    ) -> None:
        """Act on a frame of the package's own protocol; frames of unknown types are ignored.

        :param rest: what is still to be taken of a batch.
        """
        kind = body["type"]
        if kind == "publish":
            await socket.publish(parse_payload(body), parse_id(body))
        elif kind == "ping":
            socket.pong()
        elif self._turns.left:
            pass  # there is nobody for whom anything could begin or end
        elif kind == "hello":
            await self._greet(socket, body, rest)
        elif kind == "subscribe":
            self._require_greeted(kind)
            socket.subscribe(parse_subscribe(body))
        elif kind == "unsubscribe":
            self._require_greeted(kind)
            socket.unsubscribe(parse_id(body))

    def _require_greeted(self, kind: str) -> None:
        if self._state is State.GREETING:
            raise ProtocolError(f"a {kind!r} before the 'hello'")

    async def _greet(
        self, socket: OpenSocket, hello: dict[str, Any], rest: deque[dict[str, Any]]
    ) -> None:
        if self._state is not State.GREETING:
            raise ProtocolError("a second 'hello'")
        positions = parse_positions(hello.get("positions", {}))
        self._state = State.OPEN
        while rest and rest[0]["type"] == "subscribe":  # these are looked up meanwhile
            socket.subscribe(parse_subscribe(rest.popleft()))
        await socket.enter(positions)
        await socket.replay(self._turns.incoming)
