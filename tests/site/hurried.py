"""The demo, with less time for what a client has sent before it left."""

from channels_ws4redis.servers import turns
from tests.site.asgi import application

__all__ = ["application"]

turns.LEAVE_PATIENCE = 1.0
