"""What a project's ``asgi.py`` includes: patterns, and the router that knows them."""

from __future__ import annotations

import logging
import re
from typing import Any

from channels.routing import URLRouter
from channels.security.websocket import WebsocketDenier
from django.core.checks import CheckMessage
from django.urls import URLPattern
from django.urls.resolvers import RegexPattern

from channels_ws4redis.conf import settings
from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.handshake.paths import path_info_of
from channels_ws4redis.handshake.refusals import RefusedError, few_lines, tell
from channels_ws4redis.protocol.texts import shown

__all__ = ["application", "router", "websocket_urlpatterns"]

logger = logging.getLogger(__name__)
logger.addFilter(few_lines)


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

    def check(self) -> list[CheckMessage]:
        """Find nothing, as there is nothing; what is wrong with WEBSOCKET_URL is said by E004."""
        return []

    def match(self, path: str) -> tuple[str, tuple[()], dict[str, str]] | None:
        """Return what Django's patterns return, or None; ``path`` has no leading slash."""
        if not path.startswith(self._prefix):
            return None
        return "", (), {"facility": path[len(self._prefix) :]}

    def __str__(self) -> str:
        return self._prefix


class Router(URLRouter):  # type: ignore[misc] # Channels has no types
    """A URLRouter that refuses unknown paths instead of raising an exception.

    It finds the route itself. To look whether there is one, and have URLRouter look again, would
    cost each socket a second copy of its scope, which is 0.9 KiB.
    """

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Route a socket to its consumer; 403 if there is none for its path."""
        # Within a router of the project's own, its path has been looked at already.
        path = scope.get("path_remaining")
        if path is None:
            path = path_info_of(scope)
        for route in self.routes:
            match = route.pattern.match(path.lstrip("/"))
            if match is not None:
                await route.callback(_routed(scope, *match), receive, send)
                return
        refusal = RefusedError(
            f"{shown(path)} does not begin with WEBSOCKET_URL, {settings.WEBSOCKET_URL!r}; if a "
            "proxy passes a prefix on, write WEBSOCKET_URL with it, or start daphne with "
            "--root-path",
            "path",
        )
        tell(logger, logging.WARNING, "Refused", scope["path"], refusal)
        await WebsocketDenier()(scope, receive, send)


def _routed(
    scope: dict[str, Any], rest: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return what URLRouter makes of a scope whose path a route has matched."""
    outer = scope.get("url_route", {})
    arguments = {
        "args": outer.get("args", ()) + args,
        "kwargs": {**outer.get("kwargs", {}), **kwargs},
    }
    return {**scope, "path_remaining": rest, "url_route": arguments}


#: For a project that has a URLRouter of its own: ``URLRouter([*mine, *websocket_urlpatterns])``.
websocket_urlpatterns = [URLPattern(FacilityPattern(), WS4RedisConsumer.as_asgi())]

#: The router, for a project that puts middleware of its own around it which treats some facilities
#: otherwise than others, or wants it for a part of its sockets. These have one subscription each.
router = Router(websocket_urlpatterns)


class Application(Router):
    """The router of a project that treats all facilities alike, as far as routes and middleware go.

    Its sockets take further subscriptions.
    """

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Route a socket to its consumer; one subscription each, if another router leads here."""
        route = super().__call__ if "path_remaining" not in scope else router
        await route(scope, receive, send)


#: What ``asgi.py`` includes. The consumer checks the page's origin, and finds out session and user.
application = Application(
    [URLPattern(FacilityPattern(), WS4RedisConsumer.as_asgi(subscriptions=True))]
)
