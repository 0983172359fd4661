"""Outboxes in front of a ``send`` of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.servers.peer import KnownPeer, Send


def open_outbox(
    send: Send, max_messages: int, max_bytes: int, on_overflow: Callable[[], Any]
) -> Outbox:
    """Return an open outbox that writes on the spot, as on a server that the package knows."""
    outbox = Outbox(KnownPeer(send, None, own=True), max_messages, max_bytes, on_overflow)
    outbox.open()
    return outbox
