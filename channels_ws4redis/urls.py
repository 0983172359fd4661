"""An answer to plain HTTP on the socket's URL: ``path("", include("channels_ws4redis.urls"))``."""

from __future__ import annotations

import logging

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponseBadRequest
from django.urls import URLPattern, get_script_prefix
from django.views.decorators.csrf import csrf_exempt

from channels_ws4redis.handshake.paths import sockets_below
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.routing import FacilityPattern

__all__ = ["urlpatterns"]


logger = logging.getLogger(__name__)


class PagePattern(FacilityPattern):
    """Matches what a page has as the address of a socket, below the path of the project."""

    @property
    def _prefix(self) -> str:
        # Django has taken this off the path that is matched.
        mount = get_script_prefix().rstrip("/")
        return sockets_below(mount).removeprefix(mount).lstrip("/")


@csrf_exempt
def upgrade_required(request: HttpRequest, facility: str) -> HttpResponseBadRequest:
    """Say why there is nothing to see here; legacy answers 400 with a sentence, too."""
    if request.method != "GET":
        answer = "HTTP method must be a GET"
    elif request.headers.get("Upgrade", "").lower() == "websocket":
        answer = _problem_of_server(request)
        logger.error("No socket for %s: %s", shown(request.path), answer)
    else:
        answer = "Client does not wish to upgrade to a websocket"
    return HttpResponseBadRequest(answer, content_type="text/plain")


def _problem_of_server(request: HttpRequest) -> str:
    """Return why a WebSocket has come to a view."""
    if isinstance(request, WSGIRequest):
        return (
            "This is a WSGI server, which serves no WebSockets. For runserver put 'daphne' first "
            "in INSTALLED_APPS; else serve your asgi.py by daphne or uvicorn."
        )
    return (
        "This server has taken a WebSocket for plain HTTP. If it is uvicorn, it has no library for "
        "WebSockets: pip install 'uvicorn[standard]'."
    )


urlpatterns = [URLPattern(PagePattern(), upgrade_required)]
