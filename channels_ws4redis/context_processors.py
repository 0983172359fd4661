"""What templates need to open a socket."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import mark_safe

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.paths import address_for_pages

__all__ = ["default"]

#: What could end a <script> or begin a comment inside it; the same as Django's json_script.
_UNSAFE = {ord(">"): "\\u003E", ord("<"): "\\u003C", ord("&"): "\\u0026"}


def default(request: HttpRequest) -> dict[str, Any]:
    """Return ``WEBSOCKET_URI`` and ``WS4REDIS_HEARTBEAT`` as a plain, mutable dict.

    The heartbeat is rendered as a JavaScript string in quotes, or ``null``, safe in a ``<script>``.
    """
    scheme = "wss" if request.is_secure() else "ws"
    heartbeat = json.dumps(settings.WS4REDIS_HEARTBEAT).translate(_UNSAFE)
    return {
        "WEBSOCKET_URI": f"{scheme}://{request.get_host()}{address_for_pages()}",
        "WS4REDIS_HEARTBEAT": mark_safe(heartbeat),  # noqa: S308 # escaped on the line above
    }
