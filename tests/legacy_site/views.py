"""The example's pages: everyone, one user, one group."""

from django.http import HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import TemplateView
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import RedisMessage


class BroadcastChatView(TemplateView):
    """Everyone's chat; the page itself publishes through its socket."""

    template_name = "chat/broadcast_chat.html"

    def get(self, request, *args, **kwargs):
        """Greet everyone."""
        welcome = RedisMessage("Hello everybody")
        RedisPublisher(facility="foobar", broadcast=True).publish_message(welcome)
        return super().get(request, *args, **kwargs)


@method_decorator(csrf_exempt, name="dispatch")
class UserChatView(TemplateView):
    """Messages to one user, by a POST."""

    template_name = "chat/user_chat.html"

    def post(self, request, *args, **kwargs):
        """Publish to the named user."""
        publisher = RedisPublisher(facility="foobar", users=[request.POST.get("user")])
        publisher.publish_message(RedisMessage(request.POST.get("message")))
        return HttpResponse("OK")


@method_decorator(csrf_exempt, name="dispatch")
class GroupChatView(TemplateView):
    """Messages to the members of one auth group, by a POST."""

    template_name = "chat/user_chat.html"

    def post(self, request, *args, **kwargs):
        """Publish to the named auth group."""
        publisher = RedisPublisher(facility="foobar", groups=[request.POST.get("group")])
        publisher.publish_message(RedisMessage(request.POST.get("message")))
        return HttpResponse("OK")


class BareView(TemplateView):
    """A page that opens a WebSocket without any library."""

    template_name = "chat/bare.html"


def fetch(request):
    """Return the message that is stored for this request."""
    publisher = RedisPublisher(facility="foobar")
    return HttpResponse(publisher.fetch_message(request, "foobar", "any") or b"")
