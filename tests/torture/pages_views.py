"""The page of the torture mode ``pages``: all rows, and a socket from the page's stamp on."""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.urls import path

from channels_ws4redis.stamps import Stamp, astamp
from tests.torture.models import Row

FACILITY, FLAGS = "rows", "subscribe-broadcast"

#: Seconds to wait for a change between reading and rendering, and between two looks.
PATIENCE, PAUSE = 1.0, 0.1

PAGE = Template(
    '{% load ws4redis %}{% ws4redis at.facility "subscribe-broadcast" at=at %}'
    '{{ rows|json_script:"rows" }}'
)


async def page(request: HttpRequest) -> HttpResponse:
    """Take the stamp, read, let the rows change, and render.

    The query's ``late`` takes the stamp when all that is done; ``pause`` are seconds more between
    reading and rendering.
    """
    at = await _stamp()
    rows = {str(row.pk): row.value async for row in Row.objects.all()}
    await _let_change(await _stamp())
    await asyncio.sleep(float(request.GET["pause"]))
    if "late" in request.GET:
        at = await _stamp()
    return HttpResponse(PAGE.render(Context({"at": at, "rows": rows})))


async def _stamp() -> Stamp:
    return await astamp(None, FACILITY, FLAGS)


async def _let_change(before: Stamp) -> None:
    """Wait until something more has been published, unless nothing is."""
    for _ in range(round(PATIENCE / PAUSE)):
        await asyncio.sleep(PAUSE)
        if await _stamp() != before:
            break


urlpatterns = [path("", page)]
