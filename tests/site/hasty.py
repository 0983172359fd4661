"""The demo with pings every second, for tests that wait until one is missing."""

from channels_ws4redis.fanout import sockets

sockets.PING_INTERVAL = 1.0

from testproject.asgi import application  # noqa: E402

__all__ = ["application"]
