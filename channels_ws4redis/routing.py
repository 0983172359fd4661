"""What a project's ``asgi.py`` includes: patterns, router, and the router behind its guards."""

from __future__ import annotations

import re
from typing import Any

from channels.routing import URLRouter
from channels.security.websocket import WebsocketDenier
from django.urls import Resolver404, URLPattern
from django.urls.resolvers import RegexPattern

from channels_ws4redis.conf import settings
from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.handshake.requests import WebSocketRequest, origin_allowed


class FacilityPattern(RegexPattern):
    """Matches paths that begin with ``WEBSOCKET_URL``; the rest of the path is the facility.

    The setting is read when a path is matched, so that ``override_settings`` has effect. A facility
    may contain slashes, line breaks and whatever else a client may send.
    """

    def __init__(self) -> None:
        super().__init__("", is_endpoint=True)

    @property
    def regex(self) -> re.Pattern[str]:  # type: ignore[override] # a descriptor in Django
        """What Django's reverse resolution and its system checks look at."""
        return re.compile(f"^{re.escape(self._prefix)}(?P<facility>.*)$")

    @property
    def _prefix(self) -> str:
        return settings.WEBSOCKET_URL.lstrip("/")

    def match(self, path: str) -> tuple[str, tuple[()], dict[str, str]] | None:
        """Return what Django's patterns return, or None; ``path`` has no leading slash."""
        if not path.startswith(self._prefix):
            return None
        return "", (), {"facility": path[len(self._prefix) :]}

    def __str__(self) -> str:
        return self._prefix


class Router(URLRouter):  # type: ignore[misc] # Channels has no types
    """A URLRouter that refuses unknown paths instead of raising an exception."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Route a socket to its consumer; 403 if there is none for its path."""
        try:
            await super().__call__(scope, receive, send)
        except (ValueError, Resolver404) as error:
            if not str(error).startswith("No route found") and not isinstance(error, Resolver404):
                raise
            await WebsocketDenier()(scope, receive, send)


class OriginGuard:
    """Refuses sockets that were opened by a page of a foreign origin, with 403."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a socket on if the page that opens it may."""
        # A client without Origin is no browser. The request is made only if there is one to check.
        from_page = any(name == b"origin" for name, _ in scope["headers"])
        allowed = not from_page or origin_allowed(WebSocketRequest(scope))
        await (self.application if allowed else WebsocketDenier())(scope, receive, send)


#: For a project that has a URLRouter of its own: ``URLRouter([*mine, *websocket_urlpatterns])``.
websocket_urlpatterns = [URLPattern(FacilityPattern(), WS4RedisConsumer.as_asgi())]

#: The router alone, for a project that brings its own origin check or authentication.
router = Router(websocket_urlpatterns)

#: The router behind the origin check; it finds out session and user by itself.
application = OriginGuard(router)
