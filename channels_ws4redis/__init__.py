"""Push messages from Django to browsers over Channels, with the API of django-websocket-redis."""

__version__ = "1.0.0"
