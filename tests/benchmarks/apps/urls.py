"""One page, for whoever asks for it while sockets are written to."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path


def page(request: HttpRequest) -> HttpResponse:
    """Answer."""
    return HttpResponse("Hello")


urlpatterns = [path("page", page)]
