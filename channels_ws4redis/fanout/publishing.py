"""Storing a message and sending it to its groups, on whichever channel layer the project has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.store import runner
from channels_ws4redis.store.commands import Publication, parse_published, publish_command
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.scripts import Command, Outcome


def publish(publication: Publication, alias: str = "default", client: Any = None) -> None:
    """Store a message and send it to its groups.

    With our own layer that is one round trip, in which Redis numbers, stores and publishes the
    message at once. With any other layer it is stored first and sent afterwards.

    :param alias: of the channel layer.
    :param client: a redis-py client other than the process's own.
    :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses the message on a
        channel; the others have got it then.
    """
    if not publication.channels:
        return
    backend = backend_named(alias)
    parts = _parts(publication, backend.channels_at_once)
    client = client or get_client()
    replies = runner.run(client, _commands(backend, parts))
    for part in _refused(backend, parts, replies):
        publish(part, alias, client)
    events, error = _outcome(backend, parts, replies)
    if events:
        backend.send(events)
    if error is not None:
        raise error


async def apublish(publication: Publication, alias: str = "default") -> None:
    """Store a message and send it to its groups; asyncio twin of `publish`."""
    if not publication.channels:
        return
    backend = backend_named(alias)
    parts = _parts(publication, backend.channels_at_once)
    replies = await runner.get_runner().run(_commands(backend, parts))
    for part in _refused(backend, parts, replies):
        await apublish(part, alias)
    events, error = _outcome(backend, parts, replies)
    if events:
        await backend.asend(events)
    if error is not None:
        raise error


def _parts(publication: Publication, size: int) -> list[Publication]:
    """Split a publication into those that one run of the script serves each."""
    channels = publication.channels
    if len(channels) <= size:
        return [publication]
    return [
        publication._replace(channels=channels[first : first + size])
        for first in range(0, len(channels), size)
    ]


def _commands(backend: Backend, parts: Sequence[Publication]) -> list[Command]:
    mirror = settings.WS4REDIS_LEGACY_SERVERS
    affixes = backend.affixes(mirror)
    return [publish_command(part, affixes, mirror) for part in parts]


def _refused(
    backend: Backend, parts: list[Publication], replies: list[Outcome]
) -> list[Publication]:
    """Take out, and return, what was refused before it ran for having channels of different slots.

    A Redis in cluster mode does that, be it of one node only. It is given one at a time from then.
    """
    refused = [
        index
        for index, reply in enumerate(replies)
        # By its text: redis-py 5 makes it a plain ResponseError, later ones take the code off.
        if isinstance(reply, redis.exceptions.ResponseError)
        and "to the same slot" in str(reply)
        and len(parts[index].channels) > 1
    ]
    if refused:
        backend.channels_at_once = 1
    taken = [parts[index] for index in refused]
    for index in reversed(refused):
        del parts[index], replies[index]
    return taken


def _outcome(
    backend: Backend, parts: Sequence[Publication], replies: Sequence[Outcome]
) -> tuple[list[Event], Exception | None]:
    """Return what the layer has still to send, and the first error among the replies."""
    events: list[Event] = []
    error = None
    for part, reply in zip(parts, replies, strict=True):
        if isinstance(reply, Exception):
            error = error or reply
        elif not backend.atomic:
            events += parse_published(part, reply)
    return events, error
