"""Whether what the client of an open socket sends may be published at the moment. Private."""

from __future__ import annotations

import asyncio


class Standing:
    """What is certain of a socket whose rights may be in doubt."""

    __slots__ = ("_doubt", "barred", "looked_at")

    def __init__(self) -> None:
        #: Done when it is decided what the socket may use; None while that is not in doubt.
        self._doubt: asyncio.Future[None] | None = None
        #: True once nothing of its client is published any more.
        self.barred = False
        #: True while somebody finds out what it may use.
        self.looked_at = False

    @property
    def doubtful(self) -> bool:
        """True while it is not decided what the socket may use."""
        return self._doubt is not None

    def doubt(self) -> None:
        """Have all that the client sends wait for `settle`."""
        self._doubt = self._doubt or asyncio.get_running_loop().create_future()

    def settle(self) -> None:
        """Let it go on."""
        doubt, self._doubt = self._doubt, None
        if doubt is not None:
            doubt.set_result(None)

    def give_up(self) -> None:
        """Leave undecided what is in doubt, and publish nothing of that; the socket ends."""
        self.barred = self.barred or self.doubtful
        self.settle()

    async def may_publish(self) -> bool:
        """Tell whether the client may publish at all, once that is not in doubt."""
        while self._doubt is not None:
            await asyncio.shield(self._doubt)
        return not self.barred
