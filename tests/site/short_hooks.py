"""The demo, which gives up a hook that takes longer than half a second."""

from channels_ws4redis.handshake import deadlines

deadlines.CALL = 0.5

from tests.site.asgi import application  # noqa: E402

__all__ = ["application"]
