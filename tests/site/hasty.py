"""The demo with pings every second, for tests that wait until one is missing."""

from channels_ws4redis import consumers
from channels_ws4redis.fanout import groups as fanout

fanout.PING_INTERVAL = consumers.PING_INTERVAL = 1.0

from testproject.asgi import application  # noqa: E402

__all__ = ["application"]
