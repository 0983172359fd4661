"""The chat and the dashboard."""

import json
from http import HTTPStatus

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser, Group
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_POST
from redis.exceptions import ConnectionError as RedisConnectionError

from channels_ws4redis.publisher import RedisPublisher
from chat.forms import MessageForm

FACILITY = "chat"


def chat(request: HttpRequest) -> HttpResponse:
    """Show the chat, to guests without the form; messages come by the socket."""
    if not request.user.is_authenticated:
        return render(request, "chat/chat.html")
    others = get_user_model().objects.exclude(pk=request.user.pk).order_by("username")
    groups = request.user.groups.order_by("name")
    return render(request, "chat/chat.html", {"others": others, "groups": groups})


@require_POST
def send(request: HttpRequest) -> JsonResponse:
    """Publish a message to a user or an auth group.

    Unlike what a browser publishes through its socket, such a message has been looked at: its
    sender is who it says, and a group gets messages from its members alone.
    """
    if not request.user.is_authenticated:
        return JsonResponse({"error": "Please log in again."}, status=HTTPStatus.UNAUTHORIZED)
    form = MessageForm(request.POST, sender=request.user)
    if not form.is_valid():
        errors = [error for messages in form.errors.values() for error in messages]
        return JsonResponse({"error": " ".join(errors)}, status=HTTPStatus.BAD_REQUEST)
    user, group = form.cleaned_data["user"], form.cleaned_data["group"]
    message = {
        "from": request.user.get_username(),
        "to": user.get_username() if user else group.name,
        "text": form.cleaned_data["text"],
        "at": timezone.now().isoformat(),
    }
    try:
        publish(message, sender=request.user, user=user, group=group)
    except RedisConnectionError:
        return JsonResponse(
            {"error": "The message could not be sent; try again later."},
            status=HTTPStatus.SERVICE_UNAVAILABLE,
        )
    return JsonResponse({})


def publish(
    message: dict[str, str], *, sender: AbstractUser, user: AbstractUser | None, group: Group | None
) -> None:
    """Publish to all pages of a group's members, or of a user and of the sender."""
    if group:
        publisher = RedisPublisher(facility=FACILITY, groups=[group])
    else:
        publisher = RedisPublisher(facility=FACILITY, users=[user, sender])
    publisher.publish_message(json.dumps(message))


def dashboard(request: HttpRequest) -> HttpResponse:
    """Show the live chart, to anyone; `manage.py feed` publishes its numbers."""
    return render(request, "chat/dashboard.html")
