"""The demo's addresses."""

from django.urls import include, path

urlpatterns = [
    path("", include("chat.urls")),
    path("", include("channels_ws4redis.urls")),
]
