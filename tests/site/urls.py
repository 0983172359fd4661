"""The demo's URLs and a few views that do what they are told."""

import json

from asgiref.sync import sync_to_async
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import Group, User
from django.http import HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import SELF


def _publisher(request, audience):
    audience = {
        key: [SELF if value == "SELF" else value for value in values]
        if isinstance(values, list)
        else values
        for key, values in audience.items()
    }
    return RedisPublisher(request=request, **audience)


@csrf_exempt
def publish(request):
    """Publish ``messages`` from a synchronous view."""
    body = json.loads(request.body)
    publisher = _publisher(request, body["to"])
    for message in body["messages"]:
        publisher.publish_message(message, body.get("expire"))
    return JsonResponse({"publishers": sorted(publisher._publishers)})


async def apublish(request):
    """Publish ``messages`` from an asynchronous view."""
    body = json.loads(request.body)
    publisher = await sync_to_async(_publisher)(request, body["to"])
    for message in body["messages"]:
        await publisher.apublish_message(message, body.get("expire"))
    return JsonResponse({"publishers": sorted(publisher._publishers)})


# The decorator takes no asynchronous views before Django 5.
apublish.csrf_exempt = True


def fetch(request):
    """Return the stored message."""
    facility, audience = request.GET["facility"], request.GET.get("audience", "any")
    message = RedisPublisher(facility=facility).fetch_message(request, facility, audience)
    return HttpResponse(message or b"", status=200 if message else 204)


async def afetch(request):
    """Return the stored message, asynchronously."""
    facility, audience = request.GET["facility"], request.GET.get("audience", "any")
    publisher = RedisPublisher(facility=facility)
    message = await publisher.afetch_message(request, facility, audience)
    return HttpResponse(message or b"", status=200 if message else 204)


@csrf_exempt
def log_in(request):
    """Log a user in."""
    user = authenticate(request, **json.loads(request.body))
    login(request, user)
    return JsonResponse(dict(request.session.items()))


@csrf_exempt
def log_out(request):
    """Log the user out."""
    logout(request)
    return HttpResponse()


@csrf_exempt
def remember(request):
    """Write into the session."""
    request.session.update(json.loads(request.body))
    request.session.save()
    return HttpResponse(request.session.session_key)


@csrf_exempt
def change(request):
    """Change something about a user, which may concern the sockets of that user."""
    body = json.loads(request.body)
    user = User.objects.get(username=body["user"])
    CHANGES[body["how"]](user)
    return HttpResponse()


def _deactivate(user):
    user.is_active = False
    user.save()


def _set_password(user):
    user.set_password("another one")
    user.save()


def _call(user):
    user.first_name = "Somebody"
    user.save()


def _rename(user):
    user.username = "paul"
    user.save()


def _chatters():
    return Group.objects.get(name="chatters").user_set


CHANGES = {
    "deactivate": _deactivate,
    "password": _set_password,
    "call": _call,
    "rename": _rename,
    "delete": lambda user: user.delete(),
    "leave": lambda user: user.groups.set([]),
    "clear": lambda user: user.groups.clear(),
    "expel": lambda user: _chatters().remove(user),
    "dissolve": lambda user: _chatters().clear(),
}


def who(request):
    """Return the name of the user."""
    return HttpResponse(request.user.get_username())


urlpatterns = [
    path("test/publish", publish),
    path("test/apublish", apublish),
    path("test/fetch", fetch),
    path("test/afetch", afetch),
    path("test/login", log_in),
    path("test/logout", log_out),
    path("test/session", remember),
    path("test/change", change),
    path("test/who", who),
    path("test/page/", include("tests.site.pages")),
    path("", include("testproject.urls")),
]
