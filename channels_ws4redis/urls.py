"""An answer to plain HTTP on the socket's URL: ``path("", include("channels_ws4redis.urls"))``."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBadRequest
from django.urls import URLPattern
from django.views.decorators.csrf import csrf_exempt

from channels_ws4redis.routing import FacilityPattern

__all__ = ["urlpatterns"]


@csrf_exempt
def upgrade_required(request: HttpRequest, facility: str) -> HttpResponseBadRequest:
    """Say why there is nothing to see here; legacy answers 400 with a sentence, too."""
    if request.method != "GET":
        return HttpResponseBadRequest("HTTP method must be a GET", content_type="text/plain")
    return HttpResponseBadRequest(
        "Client does not wish to upgrade to a websocket", content_type="text/plain"
    )


urlpatterns = [URLPattern(FacilityPattern(), upgrade_required)]
