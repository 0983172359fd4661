"""The app's configuration."""

from django.apps import AppConfig


class ChatConfig(AppConfig):
    """The demo's app; it has no models of its own."""

    name = "chat"
