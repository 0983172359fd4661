"""Where legacy projects have their WSGI entry point; it only tells what to write instead."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured

__all__ = ["application"]

REMEDY = """{name} does not exist any more: sockets are served by ASGI. Write into asgi.py, beside \
settings.py:

    import os

    from channels.routing import ProtocolTypeRouter
    from django.core.asgi import get_asgi_application

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "<your project>.settings")
    http_application = get_asgi_application()

    import channels_ws4redis.routing

    application = ProtocolTypeRouter(
        {{"http": http_application, "websocket": channels_ws4redis.routing.application}}
    )

and into settings.py ASGI_APPLICATION = "<your project>.asgi.application" in place of \
WSGI_APPLICATION, with "daphne" first in INSTALLED_APPS. Then `manage.py runserver` serves pages \
and sockets; in production `daphne <your project>.asgi:application` does."""


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Tell what to write in ``asgi.py``.

    :raises django.core.exceptions.ImproperlyConfigured: always.
    """
    raise ImproperlyConfigured(REMEDY.format(name="ws4redis.django_runserver.application"))
