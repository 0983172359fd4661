"""Where sockets are: WEBSOCKET_URL below the path at which the project is mounted.

A mount is what Django calls the script prefix and ASGI the root path: ``/app`` for a project whose
pages are below ``/app/``, empty for most. WEBSOCKET_URL may be written with the mount or without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.urls import get_script_prefix

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.texts import shown


def sockets_below(mount: str) -> str:
    """Return the path with which all sockets begin; a facility follows on it."""
    return _before_url(mount) + settings.WEBSOCKET_URL


def _before_url(mount: str) -> str:
    mount = mount.rstrip("/")
    return "" if settings.WEBSOCKET_URL.startswith(f"{mount}/") else mount


def address_for_pages() -> str:
    """Return the path of all sockets, quoted, as the page that is being rendered has to write it.

    The page is below what Django was told of the mount, by FORCE_SCRIPT_NAME or the server.
    """
    return quote(sockets_below(get_script_prefix()), safe="/:@")


def path_info_of(scope: Mapping[str, Any]) -> str:
    """Return the path of a socket as WEBSOCKET_URL is written: without the mount, or with it.

    The mount is what the server was told. A proxy takes any other mount off, or WEBSOCKET_URL has
    it: were both taken for right, ``/app/app/ws/x`` would get past a rule of that proxy for
    ``/app/ws/``.
    """
    path: str = scope["path"]
    return path.removeprefix(_before_url(scope.get("root_path", "")))


def facility_of(request: HttpRequest) -> str:
    """Return what the router has matched, or if its route names none, what follows WEBSOCKET_URL.

    :param request: that of a socket; or one of Django's own, as tests of legacy code make it.
    :raises django.core.exceptions.PermissionDenied: if there is neither.
    """
    route = getattr(request, "scope", {}).get("url_route", {})
    matched = route.get("kwargs", {}).get("facility")
    if matched is not None:
        return str(matched)
    url = settings.WEBSOCKET_URL
    if not request.path_info.startswith(url):
        raise PermissionDenied(
            f"its route has no facility, and its path does not begin with WEBSOCKET_URL, {url!r}; "
            "write the route as path('live/<path:facility>', …), or WEBSOCKET_URL as the path is"
        )
    return request.path_info.removeprefix(url)


def require_plain_path(scope: Mapping[str, Any], facility: str) -> None:
    """Refuse a path that somebody may take for another one than the routers do.

    Each router drops the slashes before what it looks at. A hook or a proxy that looks at the path
    does not.

    :raises django.core.exceptions.PermissionDenied: then.
    """
    path, root_path = scope["path"], scope.get("root_path", "").rstrip("/")
    if not path.startswith("/"):
        raise PermissionDenied("its path does not begin with a slash")
    if not path.startswith(f"{root_path}/"):
        raise PermissionDenied(
            f"its path does not begin with the server's root path, {shown(root_path + '/')}; have "
            "the proxy pass the path on as it is, or set FORCE_SCRIPT_NAME in place of --root-path"
        )
    if "//" in path.removesuffix(facility):
        raise PermissionDenied(
            "its path has two slashes together before its facility; uvicorn's --root-path must not "
            "end with one"
        )
