"""Looking at all sockets again from time to time, for what nobody tells. Private.

A socket that only the package has judged rests on what Django knows: its session, its user, and the
user's auth groups. These facts are read for many sockets at once, and where none has changed, that
is all. A socket that code of the project has judged, such as a policy, rests on anything: it is
admitted anew each time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Sequence
from typing import Final

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.doubts import Doubt
from channels_ws4redis.handshake.facts import still_true
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.readers import AT_ONCE
from channels_ws4redis.handshake.refusals import few_lines
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.serving.revoking import PATIENCE, Revocable
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)

#: Seconds for all others between two looks, where all sockets have to be looked at at once.
BREATH: Final = 0.02


class Sweep:
    """Looks at each socket of an event loop, in rounds.

    A round takes half of the time that there is, or a little less, over which its looks are spread.
    Who comes in the middle of a round is looked at in the next one, and so in time. When orders may
    have been missed, a round begins at once, and takes no longer than it must.
    """

    def __init__(self) -> None:
        self._running = False
        #: Why a socket is admitted anew, in this round.
        self._doubt = Doubt.DUE
        #: Sockets that still have to be looked at in this round.
        self._left = 0
        #: Whether orders may have been missed since the look under way began: what it reads may be
        #: from before.
        self._overtaken = False
        #: Seconds between the looks of this round.
        self._pause = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._calls = Calls.for_many("all sockets")

    def begin(self) -> None:
        """Go on for as long as there are sockets."""
        get_control().on_missed = self.hurry
        if not self._running and settings.WS4REDIS_REAUTHORIZE:
            self._running = True
            self._wait()

    def hurry(self) -> None:
        """Look at all sockets that there are now, as orders for them may have been missed."""
        self._left, self._overtaken = len(get_control()), True
        self._pause, self._doubt = BREATH, Doubt.MISSED
        if self._timer is not None:  # else a look is under way, and the next one follows it
            self._timer.cancel()
        if self._timer is not None or not self._running:
            self._running = True
            self._go_on()

    def _wait(self) -> None:
        if self._left <= 0:
            self._doubt = Doubt.DUE
            self._left, period = len(get_control()), settings.WS4REDIS_REAUTHORIZE
            if not self._left or not period:
                self._running = False
                return
            # At random, so that processes that have begun together do not go on together.
            seconds = period / 2 * random.uniform(0.8, 1)  # noqa: S311 # no secret
            self._pause = seconds / math.ceil(self._left / AT_ONCE)
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        this_loop().spawn(self._look(), "ws4redis-sweep").add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # as the event loop ends
            self._running = False
        else:
            self._wait()

    async def _look(self) -> None:
        """Look at the next sockets, unless those of many clients still wait to be admitted anew.

        If orders may have been missed that is no reason to wait; nor is it if all are of few, who
        may have chosen a slow policy.
        """
        control, doubt = get_control(), self._doubt
        if doubt is Doubt.DUE and control.doubts.clients >= AT_ONCE:
            return
        self._overtaken = False
        due = control.due(AT_ONCE)
        sockets = [each for each in due if isinstance(each, Revocable)]
        try:
            async with asyncio.timeout(PATIENCE):
                doubtful = await self._doubtful(sockets)
        except Exception as error:  # noqa: BLE001 # whatever a database or a cache raises
            logger.warning("Sockets cannot be looked at again: %s", reason_of(error))
            if doubt is Doubt.DUE:
                return
            doubtful = sockets  # of which each is told that nobody knows what it may use
        control.seen(due)
        # Those of a look that was overtaken come last now, after all who have come meanwhile.
        self._left = len(control) if self._overtaken else self._left - AT_ONCE
        control.doubts.add([each for each in doubtful if control.marks_of(each)], doubt)

    async def _doubtful(self, sockets: Sequence[Revocable]) -> list[Revocable]:
        """Return the sockets that have to be admitted anew, to find out what they may use."""
        claims = [socket.claim() for socket in sockets]
        # Of all sockets: while this fails, nobody should be asked who may take that for an answer.
        true = await self._calls.look_up(still_true, claims)
        return [
            socket
            for socket, claim, is_true in zip(sockets, claims, true, strict=True)
            if claim.by_project or not is_true
        ]

    async def close(self) -> None:
        """Leave no timer behind, as the event loop ends."""
        if self._timer is not None:
            self._timer.cancel()


def get_sweep() -> Sweep:
    """Return the one of the running event loop."""
    return this_loop().get(Sweep, Sweep)
