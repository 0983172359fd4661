"""What a server would say of a socket of its own, for a further subscription of another one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from django.core.exceptions import PermissionDenied

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.paths import path_info_of
from channels_ws4redis.protocol.names import VERBS

#: Bytes of a query string that is kept for others, longer than any of flags that there are. What a
#: client makes up stays no longer than its subscription, and what says who it is neither.
MAX_SHARED: Final = 200


class Derived(NamedTuple):
    """What a further subscription has of its own; to be made by `derive`.

    Its scope is made when somebody asks for it, which after its beginning is seldom: it has more
    than a dozen entries, and a page may have a hundred subscriptions.
    """

    #: The scope of its socket.
    socket: dict[str, Any]
    facility: str
    query_string: bytes

    def scope(self) -> dict[str, Any]:
        """Return what a server would say of it.

        It has the headers, the client and all else of the socket, also what a middleware has put
        there. Its path is that of the socket with the other facility. So is its query string with
        the other flags: what else is in it, such as a token, may say who it is.
        """
        path = path_for(self.socket, self.facility)
        return {
            **self.socket,
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": self.query_string,
            "url_route": {"args": (), "kwargs": {"facility": self.facility}},
        }


def path_for(scope: dict[str, Any], facility: str) -> str:
    """Return the path of a socket of its own for a facility.

    :param scope: of the socket that has a subscription to it, or is refused one.
    """
    own = scope.get("url_route", {}).get("kwargs", {}).get("facility", "")
    path: str = scope["path"]
    return path.removesuffix(str(own)) + facility


def derive(scope: dict[str, Any], facility: str, flags: Iterable[str]) -> Derived:
    """Return what a further subscription of a socket has of its own.

    :param scope: of the socket.
    :raises django.core.exceptions.PermissionDenied: if the path of the socket is not
        ``WEBSOCKET_URL`` and its facility: a route of the project's own may mean anything by it.
    """
    own = scope.get("url_route", {}).get("kwargs", {}).get("facility")
    if not isinstance(own, str) or path_info_of(scope) != settings.WEBSOCKET_URL + own:
        raise PermissionDenied("it is asked for on a socket that has a route of the project's own")
    parts = scope.get("query_string", b"").split(b"&")
    others = [part for part in parts if not _is_flag(part)]
    query_string = b"&".join([*(quote(flag).encode() for flag in flags), *others])
    is_usual = not others and len(query_string) <= MAX_SHARED
    return Derived(scope, facility, _shared(query_string) if is_usual else query_string)


@lru_cache(maxsize=1024)
def _shared(query_string: bytes) -> bytes:
    """Return the same object for the same text: most pages ask alike."""
    return query_string


def _is_flag(part: bytes) -> bool:
    name = unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))
    text = name.decode("utf-8", "replace").strip().lower()
    return not text or text == "echo" or text.startswith(VERBS)
