"""The consumer behind every socket."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from channels.consumer import get_handler_name
from channels.db import database_sync_to_async
from channels.exceptions import DenyConnection, InvalidChannelLayerError, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.core.exceptions import PermissionDenied
from django.utils.module_loading import import_string

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.groups import PING_INTERVAL, FanOut, get_fanout
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.handshake import hooks
from channels_ws4redis.handshake.requests import WebSocketRequest, authenticate
from channels_ws4redis.protocol.messages import (
    SUBPROTOCOL,
    Position,
    ProtocolError,
    RedisMessage,
    is_heartbeat,
    json_frame,
    parse_frame,
    parse_payload,
    parse_positions,
)
from channels_ws4redis.protocol.names import Flags, channel_labels, parse_flags
from channels_ws4redis.servers import (
    abort_socket,
    close_socket,
    forget_shutdown,
    spread_shutdown,
    stop_with_server,
)
from channels_ws4redis.store.clients import UNREACHABLE, get_client
from channels_ws4redis.store.commands import Snapshot
from channels_ws4redis.subscriber import RedisSubscriber

logger = logging.getLogger(__name__)

#: Close codes. The client comes back after each of them, but for the last.
GOING_AWAY = 1001
SERVER_ERROR = 1011
TRY_AGAIN_LATER = 1013
TOO_SLOW = 4002
PROTOCOL_ERROR = 4500

#: Seconds that a client of the package's own protocol has for its first frame.
HELLO_TIMEOUT = 10.0

#: Seconds for handing a close frame to a server that holds us up.
CLOSE_TIMEOUT = 1.0

#: The same for a client that read too slowly, and may only have been frozen for a moment.
SLOW_CLOSE_TIMEOUT = 10.0


class WS4RedisConsumer(AsyncWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    """Joins a socket to the groups that its URL asks for, replays what is stored, and relays.

    It is reached through ``channels_ws4redis.routing``. It has no channel of its own in the channel
    layer: the fan-out of the process receives for all sockets.
    """

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Run the socket from its handshake to its end."""
        self.scope = scope
        self.base_send = send
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        self.subscriber: RedisSubscriber | None = None
        self._joined: list[str] = []
        self._following: asyncio.Lock | None = None
        self.recipient: Recipient | None = None
        self.fanout: FanOut | None = None
        self._request: WebSocketRequest | None = None
        self._task = asyncio.current_task()
        self._accepted = False
        #: True if the request knows more than the scope.
        self._identified = False
        self._overflowed = False
        self._hello: asyncio.TimerHandle | None = None
        if self._task is not None:
            stop_with_server(send, self._task)
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        except asyncio.CancelledError:
            if self._overflowed and self._task is not None:
                self._task.uncancel()
                self._leave()
                if not await self._say_goodbye(TOO_SLOW, SLOW_CLOSE_TIMEOUT):
                    abort_socket(self.base_send)
            elif self._accepted:
                # The server stops. Not all sockets at once, or all clients would come back at once.
                await asyncio.sleep(random.uniform(0, settings.WS4REDIS_CLOSE_WINDOW))  # noqa: S311
                await self._say_goodbye(GOING_AWAY)
                # One more turn of the loop, in which the server writes the frame out. The
                # cancellation ends here: daphne waits for the others only while none is left
                # cancelled.
                await asyncio.sleep(0.01)
            else:
                raise
        finally:
            await self._release()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Hand an event of the server to its handler.

        Channels' own version closes old database connections in a thread each time; no handler
        here has any.
        """
        handler = getattr(self, get_handler_name(message), None)
        if handler is None:
            raise ValueError(f"No handler for message type {message['type']}")
        await handler(message)

    # The handshake

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        """Let the socket in, or not."""
        if self.channel_layer is None:
            raise InvalidChannelLayerError(
                "There is no channel layer; set CHANNEL_LAYERS to "
                "{'default': {'BACKEND': 'channels_ws4redis.layers.RedisChannelLayer'}}."
            )
        try:
            await self.connect()
        except (DenyConnection, PermissionDenied) as error:
            logger.warning("Refused the socket %s: %s", self.scope["path"], error)
            await self.close()
        except UNREACHABLE as error:
            logger.error("Cannot open the socket %s: %s", self.scope["path"], error)
            await self._turn_away(TRY_AGAIN_LATER)
        except redis.exceptions.RedisError:
            logger.exception("Cannot open the socket %s", self.scope["path"])
            await self._turn_away(TRY_AGAIN_LATER)

    async def connect(self) -> None:
        """Find out who connects to what, join the groups, accept, and replay what is stored."""
        self.subscriber = await _make_subscriber()
        flags = parse_flags(
            self.scope.get("query_string", b""),
            {*self.subscriber.subscription_channels, *self.subscriber.publish_channels},
        )
        await self._authenticate(flags)
        granted = await self._granted(flags)
        await self._set_channels(granted)
        if not self._identified:
            self._request = None  # it can be made again
        self._joined = subscribed = list(self.subscriber._subscription.channels)
        offered = self.scope.get("subprotocols") or [None]
        speaks = SUBPROTOCOL in offered
        subprotocol = SUBPROTOCOL if speaks else offered[0]
        prefix = RedisSubscriber.get_prefix().removesuffix(":")
        self.recipient = Recipient(
            Outbox(
                self.base_send,
                settings.WS4REDIS_OUTBOX_MESSAGES,
                settings.WS4REDIS_OUTBOX_BYTES,
                self._on_overflow,
            ),
            flags.echo,
            channel_labels(prefix, subscribed) if speaks else None,
        )
        self.subscriber._sender = self.recipient.id
        self.fanout = get_fanout(self.channel_layer)
        await self.fanout.join(self.recipient, subscribed)
        self.subscriber._subscription.on_change = partial(
            self._on_subscription_change, asyncio.get_running_loop()
        )
        if speaks:
            await self._accept(subprotocol)
            self._hello = asyncio.get_running_loop().call_later(
                HELLO_TIMEOUT, self._on_silent_client
            )
        else:
            snapshots = await self.fanout.read(subscribed)
            await self._accept(subprotocol)
            await self._replay(await self._current(snapshots), {})

    @property
    def request(self) -> WebSocketRequest:
        """The Django request of the handshake, with session and user if anything looks at them.

        Made when asked for: most sockets need it only while they connect.
        """
        if self._request is None:
            self._request = WebSocketRequest(self.scope)
        return self._request

    async def _accept(self, subprotocol: str | None) -> None:
        await self.accept(subprotocol)
        self._accepted = True
        spread_shutdown(self.base_send)

    async def _authenticate(self, flags: Flags) -> None:
        """Set the request's session and user, if the flags or a hook look at them."""
        hook = settings.WS4REDIS_PROCESS_REQUEST
        if hook is not None:
            try:
                await hooks.call(hook, self.request)
            except PermissionDenied:
                raise
            except Exception:
                logger.exception("WS4REDIS_PROCESS_REQUEST failed; nobody is logged in")
                self._request = None
            self._identified = self._request is not None
            return
        if "user" in self.scope or "session" in self.scope:
            return  # the project has put middleware of its own around the router
        if (
            all(flag.endswith("-broadcast") for flag in flags.channels)
            and settings.WS4REDIS_ALLOWED_CHANNELS is None
            and type(self.subscriber) is RedisSubscriber
        ):
            return
        await database_sync_to_async(authenticate)(self.request)
        self._identified = True

    async def _granted(self, flags: Flags) -> list[str]:
        """Return the flags that ``WS4REDIS_ALLOWED_CHANNELS`` leaves, none if it fails."""
        hook = settings.WS4REDIS_ALLOWED_CHANNELS
        if hook is None:
            return flags.channels
        try:
            allowed = await hooks.call(hook, self.request, list(flags.channels))
            if allowed is None or isinstance(allowed, str):
                raise TypeError(f"it returned {allowed!r} instead of a list of channels")
            return list(allowed)
        except PermissionDenied:
            raise
        except Exception:
            logger.exception("WS4REDIS_ALLOWED_CHANNELS failed; no channel is granted")
            return []

    async def _set_channels(self, granted: list[str]) -> None:
        assert self.subscriber is not None
        names = ("set_pubsub_channels", "_get_message_channels", "get_prefix")
        foreign = (
            settings.WS4REDIS_PROCESS_REQUEST is not None
            or "user" in self.scope
            or "session" in self.scope
        )
        if hooks.overrides(self.subscriber, RedisSubscriber, *names) or (
            # What others have set there may be lazy, and ask the database when it is looked at.
            foreign and not all(flag.endswith("-broadcast") for flag in granted)
        ):
            await hooks.run(_set_channels, self.subscriber, self.request, granted)
        else:
            self.subscriber.set_pubsub_channels(self.request, granted)

    async def _current(self, snapshots: list[Snapshot]) -> list[Snapshot]:
        """Return snapshots on which the live events follow: these, or newer ones."""
        assert self.recipient is not None
        assert self.fanout is not None
        while not self.recipient.follows(snapshots):
            self.recipient.hold()
            snapshots = await self.fanout.read([snapshot.channel for snapshot in snapshots])
        return snapshots

    async def _replay(self, snapshots: list[Snapshot], positions: dict[str, Position]) -> None:
        """Send what is stored, or have an overridden method send it, and go live."""
        assert self.recipient is not None
        hook = self._replay_hook()
        if hook is not None and not positions:
            websocket = hooks.HookSocket(self.recipient)
            await hooks.run(hook, websocket)
            # What was published meanwhile may be among what the hook has read and sent.
            self.recipient.forget_held(websocket.sent, snapshots)
            snapshots = []
        self.recipient.replay(snapshots, positions)
        if self.recipient.labels is None and settings.WS4REDIS_HEARTBEAT is not None:
            self._send_heartbeat()

    def _replay_hook(self) -> Callable[[Any], None] | None:
        for name in ("send_persisted_messages", "send_persited_messages"):
            if hooks.overrides(self.subscriber, RedisSubscriber, name):
                hook: Callable[[Any], None] = getattr(self.subscriber, name)
                return hook
        return None

    def _on_subscription_change(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen on what a hook has subscribed meanwhile; in a thread, done when it has effect."""
        if _running_loop() is loop:
            task = loop.create_task(self._follow_subscription())
            _background.add(task)
            task.add_done_callback(_background.discard)
        else:
            asyncio.run_coroutine_threadsafe(self._follow_subscription(), loop).result()

    async def _follow_subscription(self) -> None:
        if self._following is None:
            self._following = asyncio.Lock()
        async with self._following:
            if self.subscriber is None or self.recipient is None or self.fanout is None:
                return
            wanted = list(self.subscriber._subscription.channels)
            gone = [name for name in self._joined if name not in wanted]
            added = [name for name in wanted if name not in self._joined]
            self._joined = wanted
            if self.recipient.labels is not None:
                prefix = RedisSubscriber.get_prefix().removesuffix(":")
                self.recipient.labels = channel_labels(prefix, wanted)
            self.fanout.leave(self.recipient, gone)
            await self.fanout.join(self.recipient, added)
            await self.fanout.read(added)  # learns from where on nothing may be missing
            if self.recipient.outbox.closed:
                self.fanout.leave(self.recipient)

    def _send_heartbeat(self) -> None:
        assert self.recipient is not None
        self.recipient.outbox.put({"type": "websocket.send", "text": settings.WS4REDIS_HEARTBEAT})

    # Frames of the client

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take a frame from the client."""
        if self.recipient is None or self.recipient.outbox.closed:
            return
        try:
            if text_data is not None and self.recipient.labels is not None:
                await self._take(parse_frame(text_data))
            else:
                await self._publish(text_data if text_data is not None else bytes_data)
        except ProtocolError as error:
            logger.warning("Closing the socket %s: %s", self.scope["path"], error)
            await self._turn_away(PROTOCOL_ERROR)
        except UNREACHABLE as error:
            logger.error("Could not publish what a client sent: %s", error)
            await self._turn_away(TRY_AGAIN_LATER)
        except redis.exceptions.RedisError:
            logger.exception("Redis refused what a client sent")
            await self._turn_away(SERVER_ERROR)

    async def _take(self, body: dict[str, Any]) -> None:
        """Act on a frame of the package's own protocol; unknown ones are ignored."""
        kind = body["type"]
        if kind == "hello":
            await self._welcome(parse_positions(body.get("positions", {})))
        elif kind == "publish":
            await self._publish(parse_payload(body))
        elif kind == "ping":
            assert self.recipient is not None
            self.recipient.outbox.put(json_frame({"type": "pong"}))

    async def _welcome(self, positions: dict[str, Position]) -> None:
        """Answer a client's first frame: where every channel stands, then what it has missed."""
        assert self.recipient is not None
        assert self.recipient.labels is not None
        assert self.fanout is not None
        if self._hello is None:
            raise ProtocolError("a second 'hello'")
        self._hello.cancel()
        self._hello = None
        snapshots = await self._current(await self.fanout.read(self.recipient.labels))
        channels = {}
        for snapshot in snapshots:
            missed = self.recipient.missed(snapshot, positions)
            channels[self.recipient.labels[snapshot.channel]] = {
                **snapshot.position._asdict(),
                "recovered": None if missed is None else missed.complete,
                "replay": len(snapshot.replay() if missed is None else missed.events),
            }
        self.recipient.outbox.put(
            json_frame({"type": "welcome", "heartbeat": PING_INTERVAL, "channels": channels})
        )
        await self._replay(snapshots, positions)

    def _on_silent_client(self) -> None:
        if self.recipient is not None:
            # A slow network is no reason to stay away for ever.
            self.recipient.outbox.put({"type": "websocket.close", "code": TOO_SLOW})

    async def _publish(self, payload: str | bytes | None) -> None:
        """Publish what the client sent to the channels that its flags name."""
        assert self.recipient is not None
        assert self.subscriber is not None
        if not payload:
            return  # as legacy does: a client's empty frame must not blank what is stored
        if is_heartbeat(payload):
            self._send_heartbeat()
            return
        self.subscriber._received = payload.encode() if isinstance(payload, str) else payload
        if hooks.overrides(self.subscriber, RedisSubscriber, "publish_message"):
            await hooks.run(self.subscriber.publish_message, RedisMessage(payload))
        elif self.subscriber._publishers:
            await self.subscriber.apublish_message(payload)

    # The end

    async def _turn_away(self, code: int) -> None:
        """Close the socket; one that is not open yet is opened first, so that the code arrives."""
        if self.recipient is not None:
            self.recipient.outbox.close()
        if not self._accepted:
            await self._accept(None)
        await close_socket(self.base_send, code)

    def _on_overflow(self) -> None:
        self._overflowed = True
        logger.warning("A client of %s reads too slowly; closing it", self.scope["path"])
        if self._task is not None:
            self._task.cancel()

    async def _say_goodbye(self, code: int, seconds: float = CLOSE_TIMEOUT) -> bool:
        """Close the socket; False if the server does not take the close frame in time."""
        try:
            async with asyncio.timeout(seconds):
                await close_socket(self.base_send, code, seconds)
        except TimeoutError:
            return False
        except Exception:  # whatever a server raises for a socket that is gone already
            logger.debug("The close frame could not be sent", exc_info=True)
        return True

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """End the consumer."""
        await self.disconnect(message["code"])
        raise StopConsumer

    def _leave(self) -> None:
        if self.recipient is not None and self.fanout is not None:
            self.fanout.leave(self.recipient)

    async def _release(self) -> None:
        """Leave all groups and run the subscriber's ``release``, exactly once."""
        forget_shutdown(self.base_send)
        if self._hello is not None:
            self._hello.cancel()
        if self.recipient is not None:
            self.recipient.outbox.close()
        self._leave()
        subscriber, self.subscriber = self.subscriber, None
        if subscriber is not None:
            subscriber._subscription.on_change = None
        if subscriber is not None and hooks.overrides(subscriber, RedisSubscriber, "release"):
            try:
                await asyncio.shield(asyncio.ensure_future(hooks.run(subscriber.release)))
            except Exception:
                logger.exception("The release hook of %s failed", type(subscriber).__name__)


#: Keeps tasks that nobody awaits from being collected.
_background: set[asyncio.Task[None]] = set()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _set_channels(subscriber: RedisSubscriber, request: WebSocketRequest, flags: list[str]) -> None:
    subscriber.set_pubsub_channels(request, flags)
    subscriber._subscription.settle()


async def _make_subscriber() -> RedisSubscriber:
    cls = _subscriber_class()
    if cls.__init__ is RedisSubscriber.__init__:
        return cls(get_client())
    subscriber: RedisSubscriber = await hooks.run(cls, get_client())
    return subscriber


def _subscriber_class() -> type[RedisSubscriber]:
    configured = settings.WS4REDIS_SUBSCRIBER
    found = import_string(configured) if isinstance(configured, str) else configured
    if not issubclass(found, RedisSubscriber):
        raise TypeError(f"WS4REDIS_SUBSCRIBER {configured!r} is no subclass of RedisSubscriber")
    return found
