"""Plain HTTP on the socket's URL."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.test import Client, override_settings
from django.urls import Resolver404, include, path, resolve

from channels_ws4redis.urls import upgrade_required

urlpatterns = [path("", include("channels_ws4redis.urls"))]


@pytest.fixture
def urls(settings):
    """Serve nothing but the package's own URLs."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]


@pytest.mark.parametrize("facility", ["foo", "", "a/b/", "Größe ☃", "with\nbreak", "a?b"])
def test_no_upgrade(urls, facility):
    """GET without an upgrade is answered by 400 and a sentence, whatever the facility."""
    response = Client().get("/ws/" + facility.replace("?", "%3F"))
    assert response.status_code == 400
    assert response.content == b"Client does not wish to upgrade to a websocket"
    assert response["Content-Type"] == "text/plain"


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch", "options", "head"])
def test_wrong_method(urls, method):
    """Every other method is answered by 400, too; CSRF protection has no say in it."""
    response = getattr(Client(enforce_csrf_checks=True), method)("/ws/foo")
    assert response.status_code == 400
    assert response.content == (b"" if method == "head" else b"HTTP method must be a GET")


def test_other_paths(urls):
    """Paths outside of WEBSOCKET_URL are none of ours."""
    assert resolve("/ws/foo").func is upgrade_required
    with pytest.raises(Resolver404):
        resolve("/wsx")


@pytest.mark.parametrize("url", ["/stream", "/a/b/"])
def test_websocket_url(urls, url):
    """WEBSOCKET_URL is read when a path is matched."""
    with override_settings(WEBSOCKET_URL=url):
        assert resolve(f"{url}foo").kwargs == {"facility": "foo"}
        with pytest.raises(Resolver404):
            resolve("/ws/foo")


def test_checks(urls):
    """Django's own checks of URL patterns find nothing to complain about."""
    assert run_checks(tags=["urls"]) == []
