"""Where the channels of a request stand; a part of `stamps` and of the template tag. Private."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.names import audience_arguments, channel_labels
from channels_ws4redis.protocol.texts import reason_of
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.subscriber import RedisSubscriber

logger = logging.getLogger(__name__)

#: Positions by label, as JSON has them.
JsonPositions = dict[str, dict[str, Any]]

Readings = Sequence[Reading | Exception]


class Channels(NamedTuple):
    """What a request would listen on, and who can tell where that stands."""

    backend: Backend
    #: What its client calls each channel, by name.
    labels: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """The names of the channels."""
        return list(self.labels)

    def positions(self, readings: Readings) -> JsonPositions:
        """Return the positions that have been read; what could not be is left out and logged."""
        found = {}
        for reading in readings:
            if isinstance(reading, Reading):
                found[self.labels[reading.channel]] = reading.position._asdict()
            elif not isinstance(reading, UNREACHABLE):  # of that there is one line for all
                logger.error("A page could not be stamped with positions: %s", reason_of(reading))
        return found


def channels_of(request: Any, facility: Any, flags: Collection[str]) -> Channels:
    """Return what a request would listen on; that may load its user and session.

    No policy is asked: the channels are those of a facility that the page has named, and of the
    visitor, whatever a socket would be granted of them.
    """
    store = RedisSubscriber()
    names = store._get_message_channels(
        request=request, facility=facility, **audience_arguments("subscribe", flags)
    )
    backend = backend_named(store.channel_layer_alias)
    return Channels(backend, channel_labels(store.get_prefix(), names))
