"""``{% ws4redis %}``: the browser client and the address of a socket in one line of a template."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.protocol.names import audience_arguments, channel_labels
from channels_ws4redis.subscriber import RedisSubscriber

logger = logging.getLogger(__name__)

register = template.Library()


@register.simple_tag(takes_context=True)
def ws4redis(
    context: dict[str, Any],
    facility: Any,
    flags: str,
    name: str = "",
    replay: bool = False,
    nonce: str = "",
) -> SafeString:
    """Render the ``<script>`` that loads the client and opens a socket when the page is ready.

    ::

        {% load ws4redis %}
        {% ws4redis "chat" "subscribe-broadcast,publish-broadcast" %}

    :param facility: what to listen on.
    :param flags: ``subscribe-…``, ``publish-…`` and ``echo``, with commas or spaces between them.
    :param name: the script of the page finds the socket under ``WS4Redis.sockets[name]``; the
        facility if left out.
    :param replay: False for a page that shows the present state by itself: it is stamped with the
        channels' positions, and gets exactly what was published since it was rendered. True for a
        page that wants the stored messages.
    :param nonce: of the page's Content-Security-Policy. Nothing rendered needs inline code.
    :raises ValueError: for a facility that has ``.`` or ``..`` between slashes: browsers take such
        a part out of an address, however it is written, and would open another one.
    """
    wanted = flags.replace(",", " ").split()
    _check(wanted)
    path = _path(str(facility))
    data = {"uri": f"{path}?{'&'.join(wanted)}" if wanted else path, "name": name or str(facility)}
    if not replay:
        positions = _positions(context.get("request"), facility, wanted)
        if positions is not None:
            data["positions"] = json.dumps(positions)
    attributes = format_html_join("", ' data-ws4redis-{}="{}"', data.items())
    if nonce:
        attributes += format_html(' nonce="{}"', nonce)
    return format_html('<script src="{}"{}></script>', static("js/ws4redis.js"), attributes)


def _path(facility: str) -> str:
    if {".", ".."} & set(facility.split("/")):
        raise ValueError(
            f"facility={facility!r} cannot be opened by a browser, which removes '.' and '..' from "
            "a path; give the facility another name."
        )
    return settings.WEBSOCKET_URL + quote(facility, safe="/")


def _check(flags: list[str]) -> None:
    known = {"echo", *RedisSubscriber.subscription_channels, *RedisSubscriber.publish_channels}
    for flag in flags:
        # A custom subscriber may know more of these.
        if flag not in known and not flag.startswith(("subscribe-", "publish-")):
            raise template.TemplateSyntaxError(
                f"{flag!r} is no flag of a socket; use {', '.join(sorted(known))}."
            )


def _positions(request: Any, facility: Any, flags: list[str]) -> dict[str, Any] | None:
    """Return the positions of what the request would listen on; None if Redis does not tell."""
    store = RedisSubscriber()
    names = store._get_message_channels(
        request=request, facility=facility, **audience_arguments("subscribe", flags)
    )
    labels = channel_labels(store.get_prefix(), names)
    positions = {}
    for reading in backend_named(store.channel_layer_alias).read(names):
        if isinstance(reading, Exception):
            # The page is worth more than its stamp: without it the socket gets the stored messages.
            logger.error("A page could not be stamped with positions: %s", reading)
        else:
            positions[labels[reading.channel]] = reading.position._asdict()
    return positions or None
