"""A view that publishes to an audience of the project's own."""

from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

from tests.legacy_site.subscribers import LabPublisher


@csrf_exempt
def lab(request):
    """Publish to the server audience."""
    publisher = LabPublisher(facility="room", server=True, request=request)
    publisher.publish_message("lab")
    return HttpResponse(str(sorted(publisher._publishers)))
