"""Plain HTTP on the socket's URL."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.test import AsyncClient, Client, override_settings
from django.urls import Resolver404, include, path, resolve, set_script_prefix

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


@pytest.mark.parametrize("url", ["/ws/", "ws/", "/app/ws/"])
def test_below_a_path(urls, settings, url):
    """The address that a page there opens is matched, without what Django takes off."""
    settings.WEBSOCKET_URL = url
    set_script_prefix("/app/")
    try:
        assert resolve("/ws/foo").kwargs == {"facility": "foo"}
        with pytest.raises(Resolver404):
            resolve("/app/ws/foo")
    finally:
        set_script_prefix("/")


def test_a_websocket_on_a_wsgi_server(urls, caplog):
    """Answer and log say what to change; that the client does not wish it would be wrong."""
    response = Client().get("/ws/foo", headers={"upgrade": "WebSocket", "connection": "Upgrade"})
    assert response.status_code == 400
    assert b"put 'daphne' first in INSTALLED_APPS" in response.content
    assert "No socket for '/ws/foo': This is a WSGI server, which serves no Web" in caplog.text


async def test_a_websocket_on_an_asgi_server_without_a_library(urls, caplog):
    """As uvicorn has none unless it is installed with one."""
    response = await AsyncClient().get("/ws/foo", headers={"upgrade": "websocket"})
    assert response.status_code == 400
    assert b"pip install 'uvicorn[standard]'" in response.content
    assert "No socket for '/ws/foo': This server has taken a WebSocket for pl" in caplog.text


def test_checks(urls):
    """Django's own checks of URL patterns find nothing to complain about."""
    assert run_checks(tags=["urls"]) == []
