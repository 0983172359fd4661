"""Policies of every kind; found because the app is in INSTALLED_APPS."""

import time

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.shortcuts import get_object_or_404

from channels_ws4redis.facilities import facility


@facility("public")
def public(request):
    """Let everybody in, and look at nobody."""
    return True


@facility("member/<int:pk>", history=3, expire=600, replay="all")
def member(request, pk):
    """Let a user in whom there is, and who asks."""
    return request.user == get_object_or_404(User, pk=pk)


@facility("amember/<str:name>")
async def amember(request, name):
    """Do the same in a coroutine."""
    await sync_to_async(get_object_or_404)(User, username=name)
    return (await request.auser()).get_username() == name


@facility("board/<slug:room>", publish=["publish-broadcast"], max_message_bytes=20)
def board(request, room):
    """Have whoever is logged in talk, and everybody listen."""
    if request.user.is_authenticated:
        return ["subscribe-broadcast", "publish-broadcast"]
    return ["subscribe-broadcast"]


@facility("pointers", publish=["publish-broadcast"], keep=False)
def pointers(request):
    """Let everybody in."""
    return True


@facility("quiet", replay="none", history=5)
def quiet(request):
    """Let everybody in."""
    return True


@facility("closed")
def closed(request):
    """Let nobody in."""
    raise PermissionDenied("closed for ever")


@facility("broken")
def broken(request):
    """Fail."""
    raise LookupError("no such thing")


@facility("hanging")
def hanging(request):
    """Hang."""
    time.sleep(10)
    return True
