"""What any channel layer has in common: its names for groups, its messages, and where it is."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import redis

from channels_ws4redis.layers import connection_arguments
from channels_ws4redis.protocol.messages import (
    EVENT_TYPE,
    PURGE_TYPE,
    QUESTION_TYPE,
    Event,
    Purge,
    Question,
)
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.clients import make_client
from channels_ws4redis.store.outages import server_address

_LEGAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,99}", re.ASCII)
_ILLEGAL = re.compile(rb"[^A-Za-z0-9.-]")

_EVENT_FIELDS = ("channel", "payload", "epoch", "offset", "sender")


def encode_name(name: str) -> str:
    """Return an injective spelling of any text in the letters that every layer takes."""
    encoded = _ILLEGAL.sub(lambda match: b"_%02x" % match[0][0], name.encode()).decode()
    if _LEGAL_NAME.fullmatch(encoded):
        return encoded
    # "__" cannot come out of the substitution above, so no short name looks like a digest.
    return "ws4redis__" + hashlib.blake2b(name.encode(), digest_size=32).hexdigest()


def place_of(layer: Any) -> str:
    """Return the class of a channel layer, and host and port if it tells where its Redis is."""
    name = f"channel layer {type(layer).__module__}.{type(layer).__qualname__}"
    with contextlib.suppress(Exception):  # whatever its configuration may be
        hosts = getattr(layer, "hosts", None) or layer._kwargs["hosts"]
        client = make_client(connection_arguments(hosts))
        return f"{name} at {server_address(client.connection_pool)}"
    return name


@contextlib.contextmanager
def refused(channel: str) -> Iterator[None]:
    """Name the channel in the error if the Redis of a layer refuses what is done meanwhile."""
    try:
        yield
    except redis.exceptions.NoPermissionError as error:
        raise redis.exceptions.NoPermissionError(
            f"The Redis of the channel layer refuses {shown(channel)} ({error}); its ACL needs the "
            "commands, keys and pub/sub channels of that layer"
        ) from error


def carrying(event: Event | Question) -> dict[str, Any]:
    """Return the message that carries an event or a question through a layer."""
    if isinstance(event, Question):
        return {"type": QUESTION_TYPE, **event._asdict()}
    kind = PURGE_TYPE if isinstance(event, Purge) else EVENT_TYPE
    return {"type": kind, **{name: getattr(event, name) for name in _EVENT_FIELDS}}


def carried_by(message: Mapping[str, Any]) -> Event | Question | None:
    """Return what a message of a layer carries, None if that is neither of both.

    :raises LookupError: if a part of it is missing.
    """
    kind = message.get("type")
    if kind == EVENT_TYPE:
        return Event(*(message[name] for name in _EVENT_FIELDS))
    if kind == PURGE_TYPE:
        return Purge(message["channel"], message["epoch"], message["offset"])
    if kind == QUESTION_TYPE:
        return Question(*(message[name] for name in Question._fields))
    return None
