"""The exceptions of the legacy package, for code that catches them."""

from __future__ import annotations

from django.http import BadHeaderError

__all__ = [
    "FrameTooLargeException",
    "HandshakeError",
    "UpgradeRequiredError",
    "WebSocketError",
]


class WebSocketError(OSError):
    """A socket cannot be written to, because its client has gone."""


class FrameTooLargeException(WebSocketError):  # noqa: N818 # the legacy name
    """A frame is too large; never raised here, as the server refuses such a frame by itself."""


class HandshakeError(BadHeaderError):
    """A handshake failed; never raised here, as the server makes the handshake."""


class UpgradeRequiredError(HandshakeError):
    """A request is no handshake; never raised here, see ``channels_ws4redis.urls``."""
