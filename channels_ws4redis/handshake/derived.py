"""What a server would say of a socket of its own, for a further subscription of another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from django.core.exceptions import PermissionDenied

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.paths import path_info_of
from channels_ws4redis.protocol.names import VERBS


def path_for(scope: dict[str, Any], facility: str) -> str:
    """Return the path of a socket of its own for a facility.

    :param scope: of the socket that has a subscription to it, or is refused one.
    """
    own = scope.get("url_route", {}).get("kwargs", {}).get("facility", "")
    path: str = scope["path"]
    return path.removesuffix(str(own)) + facility


def scope_for(scope: dict[str, Any], facility: str, flags: Iterable[str]) -> dict[str, Any]:
    """Return the scope of a further subscription.

    It has the headers, the client and all else of the socket, also what a middleware has put there.
    Its path is that of the socket with the other facility. So is its query string with the other
    flags: what else is in it, such as a token, may say who it is.

    :param scope: of the socket.
    :raises django.core.exceptions.PermissionDenied: if the path of the socket is not
        ``WEBSOCKET_URL`` and its facility: a route of the project's own may mean anything by it.
    """
    own = scope.get("url_route", {}).get("kwargs", {}).get("facility")
    if not isinstance(own, str) or path_info_of(scope) != settings.WEBSOCKET_URL + own:
        raise PermissionDenied("it is asked for on a socket that has a route of the project's own")
    path = path_for(scope, facility)
    others = [part for part in scope.get("query_string", b"").split(b"&") if not _is_flag(part)]
    return {
        **scope,
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": b"&".join([*(quote(flag).encode() for flag in flags), *others]),
        "url_route": {"args": (), "kwargs": {"facility": facility}},
    }


def _is_flag(part: bytes) -> bool:
    name = unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))
    text = name.decode("utf-8", "replace").strip().lower()
    return not text or text == "echo" or text.startswith(VERBS)
