"""``{% ws4redis %}``: the browser client and the address of a socket in one line of a template."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from channels_ws4redis.handshake.paths import address_for_pages
from channels_ws4redis.protocol.texts import meant_by
from channels_ws4redis.stamping import positions
from channels_ws4redis.subscriber import subscriber_class

register = template.Library()


@register.simple_tag(takes_context=True)
def ws4redis(
    context: dict[str, Any],
    facility: Any,
    flags: str,
    name: str = "",
    replay: bool = False,
    nonce: Any = "",
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
    :raises django.template.TemplateSyntaxError: for a flag that the subscriber does not know.
    :raises ValueError: for a facility that has ``.`` or ``..`` between slashes: browsers take such
        a part out of an address, however it is written, and would open another one.
    """
    wanted = flags.replace(",", " ").split()
    _check(wanted)
    path = _path(str(facility))
    data = {"uri": f"{path}?{'&'.join(wanted)}" if wanted else path, "name": name or str(facility)}
    if not replay:
        stamp = positions(context.get("request"), facility, wanted)
        if stamp is not None:
            data["positions"] = json.dumps(stamp)
    attributes = format_html_join("", ' data-ws4redis-{}="{}"', data.items())
    # A lazy nonce is false until it has been rendered once, so that the text has to be asked.
    if nonce is not None and (text := str(nonce)):
        attributes += format_html(' nonce="{}"', text)
    return format_html('<script src="{}"{}></script>', static("js/ws4redis.js"), attributes)


def _path(facility: str) -> str:
    if {".", ".."} & set(facility.split("/")):
        raise ValueError(
            f"facility={facility!r} cannot be opened by a browser, which removes '.' and '..' from "
            "a path; give the facility another name."
        )
    path = address_for_pages() + quote(facility, safe="/")
    if path.startswith("//"):
        raise ValueError(f"{path!r} is an address on another host for a browser, not a path.")
    return path


def _check(flags: list[str]) -> None:
    subscriber = subscriber_class()
    known = ["echo", *subscriber.subscription_channels, *subscriber.publish_channels]
    for flag in flags:
        if flag not in known:
            full = f"subscribe-{flag}"  # rather than publish-…, which allows more
            meant = full if full in known else meant_by(flag, known)
            raise template.TemplateSyntaxError(
                f"{flag!r} is no flag of a socket; "
                + (f"did you mean {meant!r}? " if meant else "")
                + f"There are {', '.join(sorted(known))}."
            )
