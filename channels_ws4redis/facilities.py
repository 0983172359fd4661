"""What a project says about families of facilities: who may use them, and with which options.

An app has its policies in a module ``facilities``, which is found like ``admin``::

    from channels_ws4redis.facilities import facility

    @facility("orders/<int:pk>", history=100)
    def order(request, pk):
        return request.user.has_perm("shop.view_order", get_object_or_404(Order, pk=pk))
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.handshake.policies import Options, Policy, register
from channels_ws4redis.protocol.history import Replay

__all__ = ["facility"]

Function = TypeVar("Function", bound=Callable[..., Any])


def facility(
    route: str,
    *,
    history: int | None = None,
    history_expire: int | None = None,
    expire: int | None = None,
    keep: bool = True,
    replay: Replay | None = None,
    publish: Collection[str] = (),
    max_message_bytes: int | None = None,
) -> Callable[[Function], Function]:
    """Have a function decide who may use the facilities of a route; the options hold for these.

    The function is called during the handshake, with the request and what the route has between
    ``<`` and ``>``. It returns True to grant the flags that the socket asks for, a list or set of
    flags to grant those of them, or False or None to refuse the socket. So does any exception.

    :param route: in the syntax of Django's ``path()``, matched with the whole facility.
    :param history: instead of ``WS4REDIS_HISTORY``.
    :param history_expire: instead of ``WS4REDIS_HISTORY_EXPIRE``.
    :param expire: instead of ``WS4REDIS_EXPIRE``.
    :param keep: False if messages are sent and nothing else: neither stored nor numbered.
    :param replay: instead of ``WS4REDIS_REPLAY``.
    :param publish: the flags by which clients may publish, such as ``publish-broadcast``. What the
        function grants besides these is not granted.
    :param max_message_bytes: bytes in one message of a client, below ``WS4REDIS_MAX_MESSAGE``.
    :raises django.core.exceptions.ImproperlyConfigured: for a route or an option that makes no
        sense, or a function that does not take what the route has in it.
    """
    if not isinstance(route, str):  # a translation would be another one in each language
        raise ImproperlyConfigured(
            f"@facility has {route!r} for its route; write @facility('orders/<int:pk>')."
        )
    options = Options(history, history_expire, expire, keep, replay, publish, max_message_bytes)

    def decorate(function: Function) -> Function:
        register(Policy.of(route, function, options))
        return function

    return decorate
