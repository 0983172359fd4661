"""Pages for the tests in a browser."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.stamps import stamp

NONCE = "bm9uY2U"

#: Content-Security-Policies by name.
POLICIES = {
    "strict": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types"
    ),
    "nonce": (
        f"default-src 'none'; script-src 'nonce-{NONCE}' 'strict-dynamic'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; require-trusted-types-for 'script'; trusted-types"
    ),
    "none": "frame-ancestors 'none'",
}


def listen(request: HttpRequest) -> HttpResponse:
    """A page that notes what its socket gets; the query says which socket."""
    asked = request.GET
    context = {
        "facility": asked.get("facility", "page"),
        "flags": asked.get("flags", "subscribe-broadcast"),
        "replay": "replay" in asked,
        "late": asked.get("late", ""),
        "inline": "inline" in asked,
        "nonce": NONCE if asked.get("policy") == "nonce" else "",
    }
    return _answer(request, "pages/listen.html", context, asked.get("policy", "strict"))


def late(request: HttpRequest) -> HttpResponse:
    """A script that publishes while it is being loaded."""
    publisher = RedisPublisher(facility=request.GET["facility"], broadcast=True)
    for message in request.GET.getlist("message"):
        publisher.publish_message(message)
    return HttpResponse("", content_type="text/javascript")


def turned(request: HttpRequest) -> HttpResponse:
    """A page among several that a script puts in the place of each other.

    The query says what it names, and by which script; ``others`` are the pages that it links to.
    With ``late`` something is published after its stamps have been taken, as in a slow view.
    """
    asked = request.GET.copy()
    others = []
    for facilities in ("a,b", "b,c", "d"):
        asked["facilities"] = facilities
        others.append((facilities.replace(",", ""), asked.urlencode()))
    wanted = request.GET["facilities"]
    context = {
        "title": wanted,
        "facilities": wanted.split(","),
        "library": request.GET.get("library", ""),
        "head": "head" in request.GET,
        "others": others,
    }
    if (late := request.GET.get("late")) is not None:
        flags = "subscribe-broadcast"
        context["stamps"] = [(each, stamp(request, each, flags)) for each in wanted.split(",")]
        if late:
            RedisPublisher(facility="b", broadcast=True).publish_message(f"{late} {wanted}")
    return _answer(request, "pages/turned.html", context, "none")


def module(request: HttpRequest) -> HttpResponse:
    """A page whose only script is an ES module."""
    return _answer(request, "pages/module.html", {}, "strict")


def legacy(request: HttpRequest) -> HttpResponse:
    """A page as the legacy package's documentation tells to write it."""
    return _answer(request, "pages/legacy.html", {"jquery": "jquery" in request.GET}, "none")


def _answer(request: HttpRequest, template: str, context: dict, policy: str) -> HttpResponse:
    response = render(request, template, context)
    response.headers["Content-Security-Policy"] = POLICIES[policy]
    return response


urlpatterns = [
    path("listen", listen),
    path("late.js", late),
    path("module", module),
    path("turned", turned),
    path("legacy", legacy),
]
