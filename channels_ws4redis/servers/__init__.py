"""What ASGI servers do differently from each other: one object per socket has it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from channels.sessions import InstanceSessionWrapper
from django.core.exceptions import PermissionDenied

from channels_ws4redis.servers.daphne import DaphnePeer, running_protocol, running_server
from channels_ws4redis.servers.incoming import AsgiEvent, ClientGoneError, Incoming
from channels_ws4redis.servers.peer import KnownPeer, Peer, Send
from channels_ws4redis.servers.straight import written_in
from channels_ws4redis.servers.turns import Turns
from channels_ws4redis.servers.uvicorn import UvicornPeer

__all__ = [
    "AsgiEvent",
    "ClientGoneError",
    "Incoming",
    "Peer",
    "Send",
    "Turns",
    "behind",
    "require_true_path",
]

_KNOWN: tuple[type[KnownPeer], ...] = (DaphnePeer, UvicornPeer)


def behind(send: Send) -> Peer:
    """Return the peer of the socket whose consumer was given this ``send``.

    To be called once per socket, in the socket's task.
    """
    inner, passed_on = _innermost(send)
    for kind in _KNOWN:
        protocol = kind.protocol_behind(inner)
        if protocol is not None:
            own = passed_on and kind.is_own(inner)
            return kind(inner if own else send, protocol, own)
    return Peer(send)


def require_true_path(scope: Mapping[str, Any], send: Send) -> None:
    """Refuse a client that has made its path look like another one to whoever is in front.

    By a header it may name a root path to daphne. And daphne takes what follows two slashes for a
    host, and what follows a semicolon for parameters, and drops both; a proxy takes them for parts
    of the path.

    :raises django.core.exceptions.PermissionDenied: then.
    """
    protocol = DaphnePeer.protocol_behind(_innermost(send)[0]) or running_protocol()
    # Middleware may have hidden the protocol, but not the server.
    server = running_server() if protocol is None else protocol.server
    if server is None:
        return
    # A router of the project's own may have made that of the scope longer, but not the protocol's.
    named = scope.get("root_path", "") if protocol is None else protocol.root_path
    if named != server.root_path:
        raise PermissionDenied(
            "its client, or a proxy, names a root path by the header Daphne-Root-Path; start "
            "daphne with --root-path, and have the proxy drop that header"
        )
    if (
        protocol is not None
        and protocol.http_request_uri.partition("?")[0].encode() != protocol.path
    ):
        raise PermissionDenied("its client has written a host, or parameters, into the path")


def _innermost(send: Any) -> tuple[Any, bool]:
    """Return the server's own ``send`` behind what Channels' middleware has put around it.

    :returns: also whether the frames of a WebSocket are passed on as they are. Channels' session
        middleware does so: it waits for the start of an HTTP response.
    """
    passed_on = True
    wrapper: Any = getattr(send, "__self__", None)
    while hasattr(wrapper, "real_send"):
        is_channels = type(wrapper) is InstanceSessionWrapper and written_in("channels", send)
        passed_on = passed_on and is_channels
        send = wrapper.real_send
        wrapper = getattr(send, "__self__", None)
    return send, passed_on
