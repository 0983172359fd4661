"""The example's addresses and those of the tests."""

from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path

from tests.legacy_site.lab import lab
from tests.site.urls import urlpatterns as test_urlpatterns

urlpatterns = [
    path("", include("tests.legacy_site.urls")),
    path("lab/", lab),
    path("", include("channels_ws4redis.urls")),
    *[pattern for pattern in test_urlpatterns if str(pattern.pattern).startswith("test/")],
    *staticfiles_urlpatterns(),
]
