"""Stamps: where the channels of a page's visitor stand, taken before the page reads its data.

So each change is in the data, or in a message that the page's socket gets, or in both::

    def order(request, pk):
        at = stamp(request, f"orders/{pk}", "subscribe-broadcast")  # first
        return render(request, "order.html", {"at": at, "order": Order.objects.get(pk=pk)})

    {% ws4redis "orders/7" "subscribe-broadcast" at=at %}
"""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, Final, TypeVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http.response import HttpResponseBase
from django.utils.asyncio import async_unsafe

from channels_ws4redis.pages.positions import Channels, JsonPositions, Readings, channels_of
from channels_ws4redis.protocol.names import as_facility, is_public
from channels_ws4redis.store.loops import running_loop
from channels_ws4redis.store.runner import get_runner
from channels_ws4redis.store.silence import NoAnswerError
from channels_ws4redis.subscriber import as_flags

__all__ = ["HEADER", "Stamp", "astamp", "stamp", "stamped"]

View = TypeVar("View", bound=Callable[..., Any])

#: The header of `stamped`.
HEADER: Final = "WS4Redis-Positions"

#: The position of a channel that Redis could not be asked for. No channel has had such an epoch, so
#: that whoever presents it is told ``lost``.
UNKNOWN: Final = {"epoch": "?", "offset": 0}


class Stamp(dict[str, dict[str, Any]]):
    """The positions of a visitor's channels, by label; JSON can be made of it as it is.

    A channel that Redis could not be asked for has a position from which nothing can be recovered:
    its page is told ``lost`` as soon as its socket is open.

    :param positions: ``{label: {"epoch": …, "offset": …}}``.
    :param facility: that it is for.
    :param flags: those that it is for; only ``subscribe-…`` count.
    """

    def __init__(self, positions: JsonPositions, facility: Any, flags: Iterable[str]) -> None:
        super().__init__(positions)
        self.facility = as_facility(facility)
        self.flags = _listening(flags)

    def require(self, facility: Any, flags: Iterable[str]) -> None:
        """Make sure that it is for the socket of a facility and flags.

        :raises ValueError: if it is not.
        """
        for what, own, wanted in (
            ("facility", self.facility, as_facility(facility)),
            ("flags", " ".join(self.flags), " ".join(_listening(flags))),
        ):
            if own != wanted:
                raise ValueError(
                    f"The stamp is for the {what} {own!r}, and the socket has {wanted!r}; take a "
                    "stamp for the facility and the flags of the socket."
                )


def _listening(flags: Iterable[str]) -> list[str]:
    """Return the flags for which a socket hears something, in one order."""
    return sorted({flag for flag in flags if flag.startswith("subscribe-")})


@async_unsafe("stamp() would hold up this event loop; await astamp().")
def stamp(request: Any, facility: Any, flags: str | Iterable[str]) -> Stamp:
    """Return where the channels stand that a request would listen on.

    To be called before the page reads what it shows. A Redis that does not answer is no error, as a
    page is worth more than its stamp; see `Stamp`.

    :param request: whose user, auth groups and session are meant; None for broadcasts alone.
    :param facility: that of the socket.
    :param flags: those of the socket: a text as for the template tag, or a list.
    :raises ValueError: for a facility or a flag that can only be a mistake.
    :raises django.core.exceptions.SynchronousOnlyOperation: on an event loop.
    """
    wanted = as_flags(flags)
    found = channels_of(request, facility, wanted)
    return _made(found, found.backend.read(found.names, position_only=True), facility, wanted)


async def astamp(request: Any, facility: Any, flags: str | Iterable[str]) -> Stamp:
    """Return where the channels stand; asyncio twin of `stamp`.

    The user of the request need not have been loaded.
    """
    wanted = as_flags(flags)
    if is_public(_listening(wanted)):
        found = channels_of(request, facility, wanted)
    else:  # who asks may have to be found out in the database
        found = await sync_to_async(channels_of)(request, facility, wanted)
    return _made(found, await _aread(found), facility, wanted)


async def _aread(found: Channels) -> Readings:
    try:
        await get_runner().require_answers()
    except NoAnswerError as error:
        return [error]
    return await found.backend.aread(found.names, position_only=True)


def _made(found: Channels, readings: Readings, facility: Any, flags: Iterable[str]) -> Stamp:
    positions = {label: dict(UNKNOWN) for label in found.labels.values()}
    return Stamp(positions | found.positions(readings), facility, flags)


def stamped(facility: str, flags: str | Iterable[str]) -> Callable[[View], View]:
    """Return a decorator that takes a stamp before a view runs, and sends it with the answer.

    It is the text of the header ``WS4Redis-Positions``, as JSON. Only an answer that succeeds has
    it: who may not see the data is not told what happens to them either. For views of both kinds,
    and by ``method_decorator`` for the ``dispatch`` of a class.

    ::

        @stamped("orders/{pk}", "subscribe-broadcast")
        def order(request, pk): ...

    :param facility: that of the socket, with arguments of the view in braces.
    :param flags: those of the socket.
    :raises ValueError: for a facility whose braces do not match.
    """
    list(string.Formatter().parse(facility))  # raises while the module is imported, not later

    def decorate(view: View) -> View:
        async def arun(request: Any, *args: Any, **kwargs: Any) -> Any:
            at = await astamp(request, _filled(facility, args, kwargs), flags)
            return await _awaited(view(request, *args, **kwargs), at)

        def run(request: Any, *args: Any, **kwargs: Any) -> Any:
            # The dispatch of a class of asynchronous views is none itself, and returns a coroutine,
            # which has not begun; under WSGI Django calls it before it has an event loop.
            if running_loop() is not None:
                return arun(request, *args, **kwargs)
            at = stamp(request, _filled(facility, args, kwargs), flags)
            response = view(request, *args, **kwargs)
            return _awaited(response, at) if isawaitable(response) else _with_header(response, at)

        chosen: Any = arun if iscoroutinefunction(view) else run
        return cast("View", functools.wraps(view)(chosen))

    return decorate


def _filled(facility: str, args: Any, kwargs: dict[str, Any]) -> str:
    try:
        return facility.format(*args, **kwargs)
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"@stamped({facility!r}, …) cannot be filled in ({error!r}); in braces there may be "
            f"arguments of the view, which has {', '.join(kwargs) or 'none'}."
        ) from None


async def _awaited(response: Awaitable[Any], at: Stamp) -> Any:
    return _with_header(await response, at)


def _with_header(response: Any, at: Stamp) -> Any:
    if not isinstance(response, HttpResponseBase):
        return response  # which Django complains of
    if response.status_code < 300 or response.status_code == 304:
        response.headers[HEADER] = json.dumps(at)
    return response
