"""The pages of a typical legacy project, as such a project would have them after its port.

Only the name of the imported package has changed. The inline scripts of these pages are of their
time, too, so they are exempt from the Content-Security-Policy.
"""

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.views.generic import TemplateView

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import RedisMessage
from chat.middleware import HEADER


class LegacyView(LoginRequiredMixin, TemplateView):
    """A page with inline scripts, for those who have logged in: each of these pages publishes."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Answer with a policy that allows what these pages do."""
        response = super().dispatch(request, *args, **kwargs)
        response.headers[HEADER] = "frame-ancestors 'none'"
        return response


class BroadcastChatView(LegacyView):
    """Everyone who has the page open gets every message; the page itself publishes."""

    template_name = "chat/legacy/broadcast.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Greet everyone; the greeting is persisted, so the page just opened shows it as well."""
        welcome = RedisMessage("Hello everybody")
        RedisPublisher(facility="foobar", broadcast=True).publish_message(welcome)
        return super().get(request, *args, **kwargs)


class UserChatView(LegacyView):
    """A message goes to one user, by a POST."""

    template_name = "chat/legacy/user.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add whom one may write to."""
        users = get_user_model().objects.order_by("username")
        return super().get_context_data(users=users, **kwargs)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Publish to the user that the form names."""
        publisher = RedisPublisher(facility="foobar", users=[request.POST.get("user", "")])
        publisher.publish_message(RedisMessage(request.POST.get("message", "")))
        return HttpResponse("OK")


class GroupChatView(LegacyView):
    """A message goes to the members of one auth group, by a POST."""

    template_name = "chat/legacy/group.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add which groups one may write to."""
        return super().get_context_data(groups=Group.objects.order_by("name"), **kwargs)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Publish to the group that the form names."""
        publisher = RedisPublisher(facility="foobar", groups=[request.POST.get("group", "")])
        publisher.publish_message(RedisMessage(request.POST.get("message", "")))
        return HttpResponse("OK")
