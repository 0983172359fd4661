"""Push messages from Django to browsers over Channels, with the API of django-websocket-redis."""

from channels_ws4redis.install import install_as_ws4redis

__all__ = ["install_as_ws4redis"]
__version__ = "1.0.0.dev0"
