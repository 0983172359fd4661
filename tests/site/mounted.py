"""The site below a path, as Starlette's ``Mount`` puts it: the root path grows, the path stays."""

from __future__ import annotations

from tests.site.asgi import application as site


async def application(scope, receive, send):
    """Serve everything below /app."""
    if scope.get("path", "").startswith("/app/"):
        scope = {**scope, "root_path": scope.get("root_path", "") + "/app"}
    await site(scope, receive, send)
