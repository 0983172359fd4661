"""Who may use which channels; the setting WS4REDIS_ALLOWED_CHANNELS names this function."""

from django.http import HttpRequest


def allowed_channels(request: HttpRequest, channels: list[str]) -> list[str]:
    """Let everyone listen, and only those publish through a socket who have logged in."""
    if request.user.is_authenticated:
        return channels
    return [channel for channel in channels if not channel.startswith("publish-")]
