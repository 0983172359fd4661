"""The consumer behind every socket: its handshake, its client's frames, and its end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from channels.consumer import get_handler_name
from channels.exceptions import InvalidChannelLayerError, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer

from channels_ws4redis import servers
from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.handshake.hooks import REFUSALS, Calls
from channels_ws4redis.handshake.refusals import BusyError, few_lines, tell
from channels_ws4redis.open_socket import OpenSocket, State
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.messages import (
    MAX_SMALL_FRAME,
    ProtocolError,
    parse_frame,
    parse_payload,
    parse_positions,
)
from channels_ws4redis.protocol.texts import is_longer
from channels_ws4redis.registering import admit_or_release
from channels_ws4redis.store.clients import UNREACHABLE

__all__ = ["WS4RedisConsumer"]

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

#: Seconds for handing a close frame to a server that does not take it at once; more for a client
#: that has read too slowly, and may only have been frozen for a moment.
CLOSE_TIMEOUT, SLOW_CLOSE_TIMEOUT = 1.0, 10.0

_TOO_BIG = "its client sent a message of more bytes than WS4REDIS_MAX_MESSAGE or its policy allows"


class WS4RedisConsumer(AsyncWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    """Joins a socket to the groups that its URL asks for, replays what is stored, and relays.

    ``channels_ws4redis.routing`` leads here. It refuses a socket that a page of a foreign origin
    opens, wherever it is routed from; ``as_asgi(check_origin=False)`` leaves that check to the
    project. A subclass may override ``connect``, ``receive`` and
    ``disconnect`` as with any consumer of Channels. The consumer has no channel of its own in the
    channel layer: the fan-out of the process receives for all sockets.
    """

    def __init__(self, *args: Any, check_origin: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_origin = check_origin
        self._state = State.CONNECTING
        #: The socket once it has been admitted; None before, and if it is refused.
        self._socket: OpenSocket | None = None
        #: What `_close` takes, if the socket has to end for a reason of its own.
        self._ending: tuple[int, Exception | str, float, str] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Run the socket from its handshake to its end."""
        self.scope = scope
        self.base_send = send
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        task = asyncio.current_task()
        assert task is not None  # what runs on an event loop runs in a task
        self._task = task
        self._peer = servers.behind(send)
        self._peer.on_stop(task)
        self._peer.limit_messages(settings.WS4REDIS_MAX_MESSAGE)
        self._incoming = servers.Incoming(receive)
        try:
            while True:
                event = await self._incoming.take()
                self._peer.take(event)
                await self.dispatch(event)
                if len(event.get("text") or event.get("bytes") or "") > MAX_SMALL_FRAME:
                    await asyncio.sleep(0)  # it took the event loop's time, and more may wait
        except StopConsumer:
            pass
        except asyncio.CancelledError:
            if not await self._end_when_cancelled():
                raise
        finally:
            if self._socket is not None:
                self._socket.stop()
            self._incoming.close()
            self._peer.release()
            if self._socket is not None:
                await self._socket.release()

    async def dispatch(self, message: servers.AsgiEvent) -> None:
        """Hand an event of the server to its handler.

        Channels' own version closes old database connections in a thread each time; no handler
        here has any.
        """
        handler = getattr(self, get_handler_name(message), None)
        if handler is None:
            raise ValueError(f"No handler for message type {message['type']}")
        await handler(message)

    # The handshake

    async def websocket_connect(self, message: servers.AsgiEvent) -> None:
        """Let the socket in, or not."""
        if self.channel_layer is None:
            raise InvalidChannelLayerError(
                "There is no channel layer; set CHANNEL_LAYERS to "
                "{'default': {'BACKEND': 'channels_ws4redis.layers.RedisChannelLayer'}}."
            )
        try:
            await self.connect()
        except REFUSALS as error:
            self._log("Refused", error, logging.WARNING)
            self._state = State.CLOSED
            await self.close()
        except servers.ClientGoneError:
            self._log("The client has left", "before it was let in", logging.DEBUG)
            with suppress(Exception):  # an answer that nobody gets, but uvicorn asks for one
                await self.close()
            raise StopConsumer from None
        except BusyError as error:
            await self._close(codes.TRY_AGAIN_LATER, error, reason=codes.RETRY_AFTER)
        except (redis.exceptions.RedisError, OSError) as error:
            await self._close(codes.TRY_AGAIN_LATER, error)

    async def connect(self) -> None:
        """Find out who connects to what, join the groups, accept, and replay what is stored.

        :raises django.core.exceptions.PermissionDenied: if the socket is refused; so does
            ``channels.exceptions.DenyConnection``.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        calls = Calls(self.scope)
        with self._incoming.watched(at_once=False):
            socket, subprotocol = await self._enter(calls)
        await self.accept(subprotocol)
        calls.be_patient()
        socket.open()
        if socket.speaks_protocol:
            self._state = State.GREETING
        else:
            await socket.replay(self._incoming)

    async def _enter(self, calls: Calls) -> tuple[OpenSocket, str | None]:
        """Join the groups, once the socket has been admitted; also returns its subprotocol."""
        outbox, fanout = self._make_outbox(), get_fanout(self.channel_layer)
        servers.require_true_path(self.scope, self.base_send)
        admitted = await admit_or_release(self.scope, calls, self._check_origin)
        socket = self._socket = OpenSocket(*admitted, fanout, outbox, self._end)
        await socket.join(admitted[0].channels)
        if not socket.speaks_protocol:
            # Before the client is accepted: it is owed all that is published from then on, also
            # what is not stored.
            await socket.enter({})
        return socket, admitted[0].subprotocol

    def _make_outbox(self) -> Outbox:
        return Outbox(
            self._peer,
            settings.WS4REDIS_OUTBOX_MESSAGES,
            settings.WS4REDIS_OUTBOX_BYTES,
            partial(self._end, codes.TOO_SLOW, "its client reads too slowly", SLOW_CLOSE_TIMEOUT),
            partial(self._end, codes.SERVER_ERROR),
        )

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Accept the socket."""
        try:
            await super().accept(subprotocol, headers)
        except OSError:  # uvicorn's word for a client that has gone
            raise servers.ClientGoneError from None
        self._state = State.OPEN

    # Frames of the client

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take a frame from the client."""
        socket = self._socket
        if socket is None or socket.closed:
            return
        if is_longer(text_data or bytes_data or b"", socket.max_message):
            await self._close(codes.MESSAGE_TOO_BIG, _TOO_BIG)
            return
        try:
            if text_data is None:
                await socket.publish(bytes_data or b"")
            elif socket.speaks_protocol:
                await self._take(socket, parse_frame(text_data))
            else:
                await socket.publish(text_data.encode())
        except ProtocolError as error:
            await self._close(codes.PROTOCOL_ERROR, error)
        except BusyError as error:
            await self._close(codes.TRY_AGAIN_LATER, error, reason=codes.RETRY_AFTER)
        except UNREACHABLE as error:
            await self._close(codes.TRY_AGAIN_LATER, error)
        except redis.exceptions.RedisError as error:
            await self._close(codes.SERVER_ERROR, error)

    async def _take(self, socket: OpenSocket, body: dict[str, Any]) -> None:
        """Act on a frame of the package's own protocol; frames of unknown types are ignored."""
        kind = body["type"]
        if kind == "hello":
            if self._state is not State.GREETING:
                raise ProtocolError("a second 'hello'")
            positions = parse_positions(body.get("positions", {}))
            self._state = State.OPEN
            await socket.enter(positions)
            await socket.replay(self._incoming)
        elif kind == "publish":
            await socket.publish(parse_payload(body))
        elif kind == "ping":
            socket.pong()

    # The end

    def _end(
        self, code: int, why: Exception | str, seconds: float = CLOSE_TIMEOUT, reason: str = ""
    ) -> None:
        """Have the socket's own task close it."""
        if self._ending is None and self._state is not State.CLOSED:
            self._ending = code, why, seconds, reason
            self._task.cancel()

    async def _end_when_cancelled(self) -> bool:
        """Close a socket whose task was cancelled; False if the cancellation has to go on."""
        if self._ending is not None:
            self._task.uncancel()
            if not await self._close(*self._ending):
                self._peer.abort()
        elif self._state is State.CONNECTING:
            return False
        elif self._state is not State.CLOSED:
            # Not all sockets at once, or all clients would come back at once.
            await asyncio.sleep(random.uniform(0, settings.WS4REDIS_CLOSE_WINDOW))  # noqa: S311 # no secret
            await self._close(codes.GOING_AWAY)
            # One more turn of the loop, in which the server writes the frame out. The cancellation
            # ends here: daphne waits for the other sockets only while no task is left cancelled.
            await asyncio.sleep(0.01)
        return True

    async def _close(
        self,
        code: int,
        why: Exception | str = "",
        seconds: float = CLOSE_TIMEOUT,
        reason: str = "",
    ) -> bool:
        """Close the socket; False if the server does not take the close frame in time.

        A socket that is still connecting is accepted first: a refused one has no close code.

        :param why: what the log says; nothing is logged if it is empty.
        :param reason: what the client is told.
        """
        was_connecting, self._state = self._state is State.CONNECTING, State.CLOSED
        if why:
            is_clients = isinstance(why, ProtocolError | BusyError | str)
            level = logging.WARNING if is_clients else logging.ERROR
            self._log("Cannot open" if was_connecting else "Closing", why, level)
        if self._socket is not None:
            self._socket.stop()
        if codes.is_owed_no_patience(code):
            # A client that does not answer may go on sending, and would be listened to.
            asyncio.get_running_loop().call_later(seconds, self._peer.abort)
        try:
            async with asyncio.timeout(seconds):
                if was_connecting:
                    await super().accept()
                await self._peer.close(code, seconds, reason)
        except TimeoutError:
            return False
        except Exception:  # whatever a server raises for a socket that is gone already
            logger.debug("The close frame could not be sent", exc_info=True)
        return True

    def _log(self, what: str, why: BaseException | str, level: int) -> None:
        tell(logger, level, what, self.scope["path"], why)

    async def websocket_disconnect(self, message: servers.AsgiEvent) -> None:
        """End the consumer."""
        if message["code"] == codes.MESSAGE_TOO_BIG and self._state is not State.CLOSED:
            self._log("The server closes", _TOO_BIG, logging.WARNING)
        await self.disconnect(message["code"])
        raise StopConsumer
