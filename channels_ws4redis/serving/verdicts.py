"""With which code a socket, or one of its subscriptions, ends for an error. Private."""

from __future__ import annotations

import logging
from typing import NamedTuple

from channels_ws4redis.handshake.hooks import REFUSALS
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.client_frames import ProtocolError
from channels_ws4redis.store.clients import OF_REDIS, UNREACHABLE

TOO_BIG = "its client sent a message of more bytes than WS4REDIS_MAX_MESSAGE or its policy allows"


class TooBigError(Exception):
    """A client has sent more bytes in one message than it may."""


class Verdict(NamedTuple):
    """How something ends."""

    code: int
    #: For the log; empty if it has been told already.
    why: Exception | str = ""
    #: For the client.
    reason: str = ""


#: What may go wrong with a frame of a client, and is no fault of the project's code.
FAULTS = (ProtocolError, TooBigError, BusyError, *OF_REDIS)


def for_frame(error: Exception) -> Verdict:
    """Return how it ends for one of `FAULTS`."""
    if isinstance(error, ProtocolError):
        return Verdict(codes.PROTOCOL_ERROR, error)
    if isinstance(error, TooBigError):
        return Verdict(codes.MESSAGE_TOO_BIG, TOO_BIG)
    if isinstance(error, BusyError):
        return Verdict(codes.TRY_AGAIN_LATER, error, codes.RETRY_AFTER)
    is_away = isinstance(error, UNREACHABLE)
    return Verdict(codes.TRY_AGAIN_LATER if is_away else codes.SERVER_ERROR, error)


def for_beginning(error: Exception) -> Verdict:
    """Return how a socket or a subscription ends for whatever has gone wrong at its beginning.

    A socket that is `codes.REFUSED` gets a 403 in place of the code.
    """
    if isinstance(error, REFUSALS):  # a policy that has failed among them: nobody is to tell that
        return Verdict(codes.REFUSED, error)
    if isinstance(error, BusyError):
        return Verdict(codes.TRY_AGAIN_LATER, error, codes.RETRY_AFTER)
    passes = isinstance(error, OF_REDIS)
    return Verdict(codes.TRY_AGAIN_LATER if passes else codes.SERVER_ERROR, error)


def level_of(why: Exception | str) -> int:
    """Return how loudly the log tells why something ends; of what is clients' fault it warns."""
    is_clients = isinstance(why, (str, ProtocolError, BusyError, *REFUSALS))
    return logging.WARNING if is_clients else logging.ERROR
