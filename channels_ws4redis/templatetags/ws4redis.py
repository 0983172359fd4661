"""``{% ws4redis %}``: the browser client and the address of a socket in one line of a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from channels_ws4redis.handshake.paths import address_for_pages
from channels_ws4redis.pages.lateness import tell_if_late
from channels_ws4redis.pages.rendering import positions
from channels_ws4redis.stamps import Stamp
from channels_ws4redis.subscriber import as_flags

register = template.Library()


@register.simple_tag(takes_context=True)
def ws4redis(
    context: dict[str, Any],
    facility: Any,
    flags: str,
    name: str = "",
    replay: bool = False,
    nonce: Any = "",
    at: Any = None,
) -> SafeString:
    """Render the ``<script>`` that loads the client and opens a socket when the page is ready.

    ::

        {% load ws4redis %} {% ws4redis "orders/7" "subscribe-broadcast" at=at %}

    :param facility: what to listen on.
    :param flags: ``subscribe-…``, ``publish-…`` and ``echo``, with commas or spaces between them.
    :param name: the script of the page finds the socket under ``WS4Redis.sockets[name]``; the
        facility if left out.
    :param replay: True for a page that wants the stored messages, and has no data of its own.
    :param nonce: of the page's Content-Security-Policy. Nothing rendered needs inline code.
    :param at: the stamp that the view has taken before it has read what the page shows: the page
        gets exactly what was published since. Without it that is what is published from now on.
    :raises django.template.TemplateSyntaxError: for a flag that the subscriber does not know.
    :raises ValueError: for no facility; for one that browsers would rewrite, as they do with ``.``
        and ``..`` between slashes; for what is no stamp, or one for other facility or flags.
    """
    wanted = _flags(flags)
    path = _path(str(facility))
    data = {"uri": f"{path}?{'&'.join(wanted)}" if wanted else path}
    data |= {"facility": str(facility), "flags": " ".join(wanted), "name": name or str(facility)}
    data["positions"] = json.dumps(_positions(context, facility, wanted, at, replay))
    attributes = format_html_join("", ' data-ws4redis-{}="{}"', data.items())
    # A lazy nonce is false until it has been rendered once, so that the text has to be asked.
    if nonce is not None and (text := str(nonce)):
        attributes += format_html(' nonce="{}"', text)
    return format_html('<script src="{}"{}></script>', static("js/ws4redis.js"), attributes)


def _path(facility: str) -> str:
    if not facility:
        raise ValueError(
            "facility='' names nothing. A variable that the template does not have is such a text; "
            "is its name misspelt?"
        )
    if {".", ".."} & set(facility.split("/")):
        raise ValueError(
            f"facility={facility!r} cannot be opened by a browser, which removes '.' and '..' from "
            "a path; give the facility another name."
        )
    path = address_for_pages() + quote(facility, safe="/")
    if path.startswith("//"):
        raise ValueError(f"{path!r} is an address on another host for a browser, not a path.")
    return path


def _flags(text: str) -> list[str]:
    try:
        return as_flags(text)
    except ValueError as error:
        raise template.TemplateSyntaxError(str(error)) from None


def _positions(
    context: dict[str, Any], facility: Any, flags: list[str], at: Any, replay: bool
) -> Mapping[str, Any]:
    """Return where the page stands; nothing for one that wants what is stored.

    Nothing says something, too, to a socket that stays when a script replaces the page.
    """
    if at is not None:
        return _stamp(at, facility, flags, replay)
    if replay:
        return {}
    request = context.get("request")
    tell_if_late(request, _template_of(context))
    return positions(request, facility, flags)


def _stamp(at: Any, facility: Any, flags: list[str], replay: bool) -> Stamp:
    if not isinstance(at, Stamp):
        raise ValueError(
            f"at={at!r} is no stamp; have the view give the template what stamp() or astamp() of "
            "channels_ws4redis.stamps has returned."
        )
    if replay:
        raise ValueError("at= is for a page that has its data, replay= for one that has none.")
    at.require(facility, flags)
    return at


def _template_of(context: Any) -> str:
    """Return the file of the template in which the tag stands, for the log."""
    found = getattr(getattr(context, "render_context", None), "template", None)
    origin = getattr(found, "origin", None)
    return str(getattr(origin, "template_name", None) or getattr(origin, "name", "a template"))
