"""The consumer behind every socket: its handshake, and its client's frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from channels.consumer import get_handler_name
from channels.exceptions import InvalidChannelLayerError, StopConsumer
from channels.layers import get_channel_layer
from django.core.exceptions import PermissionDenied

from channels_ws4redis import servers
from channels_ws4redis.conf import OWN_LAYER, settings
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.handshake.hooks import REFUSALS, Calls
from channels_ws4redis.handshake.origins import require_allowed_origin
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.protocol.client_frames import MAX_SMALL_FRAME
from channels_ws4redis.serving.open_socket import OpenSocket, State
from channels_ws4redis.serving.own_channel import OwnChannel, has_handlers
from channels_ws4redis.serving.receiving import ReceivingConsumer
from channels_ws4redis.serving.registering import admit_or_release
from channels_ws4redis.serving.verdicts import for_beginning
from channels_ws4redis.store.clients import OF_REDIS

__all__ = ["WS4RedisConsumer"]


class _Options(NamedTuple):
    """What ``as_asgi`` was given."""

    check_origin: bool
    subscriptions: bool


class WS4RedisConsumer(ReceivingConsumer):
    """Joins a socket to the groups that its URL asks for, replays what is stored, and relays.

    ``channels_ws4redis.routing`` leads here. It refuses a socket that a page of a foreign origin
    opens, wherever it is routed from; ``as_asgi(check_origin=False)`` leaves that check to the
    project. ``as_asgi(subscriptions=True)`` lets its clients subscribe to further facilities, past
    whatever routes and middleware make of these. A subclass may override ``connect``, ``receive``
    and ``disconnect`` as with any consumer of Channels, and have ``groups`` and handlers for
    messages of the channel layer. The consumer itself has no channel there: the fan-out of the
    process receives for all sockets.
    """

    #: Whether the class has handlers for messages of the channel layer.
    _has_handlers = False

    def __init__(
        self, *args: Any, check_origin: bool = True, subscriptions: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._options = _Options(check_origin, subscriptions)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._has_handlers = has_handlers(cls, WS4RedisConsumer)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Run the socket from its handshake to its end."""
        self.scope = scope
        self.base_send = send
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        self._peer = servers.behind(send)
        self._peer.limit_messages(settings.WS4REDIS_MAX_MESSAGE)
        if self.groups or self._has_handlers:
            self._channel = OwnChannel(self.channel_layer, receive)
            receive = self._channel.receive
        self._turns = servers.Turns(servers.Incoming(receive), self._handle)
        self._peer.on_stop(self._turns.task, self._stop)
        self._peer.on_gone(self._leave)
        try:
            try:
                await self._turns.run()
            except asyncio.CancelledError:
                if not await self._end_when_cancelled():
                    raise
            await self._end_orderly()
        except StopConsumer:
            pass
        finally:
            self._hear_no_more()
            self._turns.incoming.close()
            self._peer.release()
            if self._channel is not None:
                self._channel.end()
            if self._socket is not None:
                await self._socket.release()

    async def _handle(self, event: servers.AsgiEvent) -> None:
        self._peer.take(event)
        await self.dispatch(event)
        is_frame = event["type"] == "websocket.receive"
        if is_frame and len(event.get("text") or event.get("bytes") or "") > MAX_SMALL_FRAME:
            await asyncio.sleep(0)  # it took the event loop's time, and more may wait

    @property
    def channel_name(self) -> str:
        """The name of the channel that a subclass with ``groups`` or handlers has in the layer.

        :raises AttributeError: for a consumer that has no channel.
        """
        if self._channel is None:
            raise AttributeError(
                f"{type(self).__name__} has no channel_name: a consumer of channels_ws4redis has a "
                "channel of its own in the channel layer only if it has groups, or a handler, that "
                "is a coroutine method such as 'async def chat_message(self, message)'"
            )
        return self._channel.name

    async def dispatch(self, message: servers.AsgiEvent) -> None:
        """Hand an event of the server, or a message of the channel layer, to its handler.

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
            raise InvalidChannelLayerError(f"There is no channel layer; set {OWN_LAYER}")
        try:
            servers.require_true_path(self.scope, self.base_send)
            if self._options.check_origin:
                require_allowed_origin(WebSocketRequest(self.scope))
        except PermissionDenied as error:
            await self._refuse(error)
            raise StopConsumer from None  # a project's own connect() has not been called
        await self._connect()

    async def _connect(self) -> None:
        """Let the socket in, or not, as `connect` decides."""
        try:
            if self._channel is not None:
                await self._channel.open(self.groups)
            await self.connect()
        except REFUSALS as error:
            await self._refuse(error)
        except servers.ClientGoneError:
            self._log("The client has left", "before it was let in", logging.DEBUG)
            with suppress(Exception):  # an answer that nobody gets, but uvicorn asks for one
                await self.base_send({"type": "websocket.close"})
            if self._state is State.CONNECTING:
                raise StopConsumer from None
        except (BusyError, *OF_REDIS) as error:
            code, why, reason = for_beginning(error)
            await self._close(code, why, reason=reason)

    async def _refuse(self, why: Exception) -> None:
        self._log("Refused", why, logging.WARNING)
        await self.close()

    async def connect(self) -> None:
        """Find out who connects to what, join the groups, accept, and replay what is stored.

        :raises django.core.exceptions.PermissionDenied: if the socket is refused; so does
            ``channels.exceptions.DenyConnection``.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        calls = Calls(self.scope)
        with self._turns.incoming.watched(at_once=False):
            socket, subprotocol = await self._enter(calls)
        calls.be_patient()
        await self.accept(subprotocol)
        socket.open()
        if socket.speaks_protocol:
            self._state = State.GREETING
        else:
            await socket.replay(self._turns.incoming)

    async def _enter(self, calls: Calls) -> tuple[OpenSocket, str | None]:
        """Join the groups, once the socket has been admitted; also returns its subprotocol."""
        outbox, layer = self._make_outbox(), self.channel_layer
        admitted = await admit_or_release(self.scope, calls, layer)
        further = settings.WS4REDIS_MAX_SUBSCRIPTIONS - 1 if self._options.subscriptions else 0
        # Asked for now, as a fan-out is closed for good with its last socket.
        socket = OpenSocket(admitted, get_fanout(layer), outbox, self._end, further)
        self._socket = socket
        await socket.join(admitted.admission.channels)
        if not socket.speaks_protocol:
            # Before the client is accepted: it is owed all that is published from then on, also
            # what is not stored.
            await socket.enter({})
        return socket, admitted.admission.subprotocol

    def _make_outbox(self) -> Outbox:
        return Outbox(
            self._peer,
            settings.WS4REDIS_OUTBOX_MESSAGES,
            settings.WS4REDIS_OUTBOX_BYTES,
            self._end_too_slow,
            self._end_undeliverable,
        )

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Accept the socket.

        :raises ClientGoneError: if the client has gone. On some servers it may have sent something
            before, which is still published.
        """
        try:
            await super().accept(subprotocol, headers)
        except OSError:  # uvicorn's word for it
            self._turns.leave()
        self._state = State.OPEN
        if self._turns.left:
            self._leave()
            raise servers.ClientGoneError
