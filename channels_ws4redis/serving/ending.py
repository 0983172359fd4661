"""How a socket ends, by its client, its server or us, and what is published then. Private."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, NamedTuple

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from channels_ws4redis import servers
from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.admission import choose_subprotocol
from channels_ws4redis.handshake.refusals import few_lines, tell
from channels_ws4redis.protocol import codes
from channels_ws4redis.serving.open_socket import OpenSocket, State
from channels_ws4redis.serving.own_channel import OwnChannel
from channels_ws4redis.serving.verdicts import TOO_BIG, level_of

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

#: Seconds for handing a close frame to a server that does not take it at once; more for a client
#: that has read too slowly, and may only have been frozen for a moment.
CLOSE_TIMEOUT, SLOW_CLOSE_TIMEOUT = 1.0, 10.0

_TOO_LATE = "not all that its client had sent before the end could be published in time"


class Ending(NamedTuple):
    """Why and how a socket has to end: what `EndingConsumer._close` takes."""

    code: int
    why: Exception | str
    seconds: float
    reason: str

    @property
    def blameless(self) -> bool:
        """Whether it is for no fault of what the client has sent."""
        return self.code in codes.BLAMELESS


class EndingConsumer(AsyncWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    """The part of the consumer that ends a socket.

    What a client has sent before it left is published, in its order: all events of the server are
    handled before its word that the client has gone. The same holds if we close the socket for no
    fault of what the client has sent (`codes.BLAMELESS`): what the server has handed over by then
    is published after the close frame. Once one message could not be published, or was cut off,
    none that came after it is: what is published is always the beginning of what was sent.

    There are `servers.turns.LEAVE_PATIENCE` seconds for all that, from the moment at which the
    client has gone, or has been told to go. The subscriber is released afterwards.
    """

    _peer: servers.Peer
    _turns: servers.Turns

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = State.CONNECTING
        #: The socket once it has been admitted; None before, and if it is refused.
        self._socket: OpenSocket | None = None
        #: Why the socket has to end, if that is for a reason of ours.
        self._ending: Ending | None = None
        #: The channel of its own that a subclass asks for.
        self._channel: OwnChannel | None = None

    def _end(
        self, code: int, why: Exception | str, seconds: float = CLOSE_TIMEOUT, reason: str = ""
    ) -> None:
        """Have the socket's own task close it, unless its end has come already."""
        if self._ending is None and self._state is not State.CLOSED and not self._turns.left:
            self._ending = Ending(code, why, seconds, reason)
            self._turns.stop(finish=self._ending.blameless)

    # Each socket holds these two, which as partial objects would take 0.4 KiB of it.

    def _end_too_slow(self) -> None:
        self._end(codes.TOO_SLOW, "its client reads too slowly", SLOW_CLOSE_TIMEOUT)

    def _end_undeliverable(self, error: Exception) -> None:
        self._end(codes.SERVER_ERROR, error)

    def _stop(self) -> None:
        """Close the socket, as the server stops."""
        if self._state is State.CONNECTING:
            self._turns.task.cancel()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(_moment(), self._end, codes.GOING_AWAY, "")

    def _leave(self) -> None:
        """Note that the client has gone; what it has sent before is still to be published."""
        self._turns.leave()
        if self._state is not State.CONNECTING:
            self._hear_no_more()  # a hook that sends to the socket is told so

    def _hear_no_more(self) -> None:
        """Leave all groups, also those of the channel of its own; nothing is sent any more."""
        if self._socket is not None:
            self._socket.stop()
        if self._channel is not None:
            self._channel.close()

    async def _end_when_cancelled(self) -> bool:
        """Close a socket whose task was cancelled by a server that we do not know.

        :returns: False if the cancellation has to go on: the socket has not been let in yet, or its
            client has left, and the server has lost its patience.
        """
        if self._state is State.CONNECTING or self._turns.left:
            return False
        await asyncio.sleep(_moment())
        self._end(codes.GOING_AWAY, "")
        return True

    async def _end_orderly(self) -> None:
        """Close the socket if it has to be closed, and publish what is still to be published."""
        was_open = self._state not in {State.CONNECTING, State.CLOSED}
        blameless = self._ending is None or self._ending.blameless
        in_time = not self._turns.cut_off
        if self._ending is not None and self._state is not State.CLOSED:
            goes_on = in_time and blameless
            if not await self._close(*self._ending, takes_more=goes_on):
                self._peer.abort()
            if goes_on:
                in_time = await self._turns.drain()
        if was_open and blameless and not in_time:
            self._log("Giving up", _TOO_LATE, logging.WARNING)

    async def _close(
        self,
        code: int,
        why: Exception | str = "",
        seconds: float = CLOSE_TIMEOUT,
        reason: str = "",
        *,
        takes_more: bool = False,
    ) -> bool:
        """Close the socket; False if the server does not take the close frame in time.

        A socket that is still connecting is accepted first: a refused one has no close code. To a
        browser it has none either if nothing that the page has offered is chosen.

        :param why: what the log says; nothing is logged if it is empty.
        :param reason: what the client is told.
        :param takes_more: whether what the client has sent by now is still to be published.
        """
        was_connecting = self._state is State.CONNECTING
        if not takes_more:
            self._state = State.CLOSED
        if why:
            self._tell_of_end("Cannot open" if was_connecting else "Closing", why)
        self._hear_no_more()
        if self._turns.left and not was_connecting:  # for which servers ask for an answer
            return True  # it has been told already, or cannot be told
        if codes.is_owed_no_patience(code):
            # A client that does not answer may go on sending, and would be listened to.
            asyncio.get_running_loop().call_later(seconds, self._peer.abort)
        try:
            async with asyncio.timeout(seconds):
                if was_connecting:
                    await super().accept(choose_subprotocol(self.scope))
                await self._peer.close(code, seconds, reason)
        except TimeoutError:
            return False
        except Exception:  # whatever a server raises for a socket that is gone already
            logger.debug("The close frame could not be sent", exc_info=True)
        return True

    def _tell_of_end(self, what: str, why: Exception | str) -> None:
        self._log(what, why, level_of(why))

    def _log(self, what: str, why: BaseException | str, level: int) -> None:
        tell(logger, level, what, self.scope["path"], why)

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Close the socket for a reason of the project's; nothing of its client is taken any more.

        A socket that is still connecting is refused.
        """
        self._state = State.CLOSED
        self._hear_no_more()
        await super().close(code, reason)

    async def websocket_disconnect(self, message: servers.AsgiEvent) -> None:
        """End the consumer."""
        if message["code"] == codes.MESSAGE_TOO_BIG and self._state is not State.CLOSED:
            self._log("The server closes", TOO_BIG, logging.WARNING)
        await self.disconnect(message["code"])
        raise StopConsumer


def _moment() -> float:
    """Return in how many seconds to close a socket of a server that stops.

    Not all sockets are closed at once, or all clients would come back at once.
    """
    return random.uniform(0, settings.WS4REDIS_CLOSE_WINDOW)  # noqa: S311 # no secret
