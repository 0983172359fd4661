"""The frames that a client of the package's own protocol sends. Pure functions and values."""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NamedTuple

from channels_ws4redis.protocol.messages import Position, Positions
from channels_ws4redis.protocol.texts import is_encodable, shown

#: Characters in a frame of a client that is more than a payload to be published. Understanding JSON
#: of many small parts takes the event loop's time.
MAX_SMALL_FRAME: Final = 64 * 1024

#: Frames in one batch of a client.
MAX_BATCH: Final = 256

#: The greatest id that a client may give a subscription.
MAX_ID: Final = 2**31 - 1

#: Positions in one ``subscribe``. A hundred of these may wait until they are decided.
MAX_POSITIONS: Final = 256

#: Characters in the flags of one ``subscribe``, one more for each flag. They are kept as long as
#: the subscription, twelve bytes a character at most; those of a URL are limited by the server.
MAX_FLAGS: Final = 2048

_PAYLOAD = {"type", "data", "base64", "id"}


class ProtocolError(ValueError):
    """A frame of the package's own protocol that cannot be understood."""


def parse_frames(text: str) -> list[dict[str, Any]]:
    """Return the JSON object in a client's text frame, or those of a batch.

    :raises ProtocolError: if one of them is no JSON object with a ``type``, or they are too many.
    """
    is_large = len(text) > MAX_SMALL_FRAME
    try:
        body = json.loads(text, object_pairs_hook=_without_repetitions if is_large else None)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    frames = body if isinstance(body, list) else [body]
    if not all(isinstance(each, dict) and isinstance(each.get("type"), str) for each in frames):
        raise ProtocolError("not a JSON object with a 'type', nor an array of these")
    if len(frames) > MAX_BATCH:
        raise ProtocolError(f"{len(frames)} frames in one, of which there may be {MAX_BATCH}")
    if is_large and not (body is not frames and _is_payload_alone(body)):
        raise ProtocolError(f"{len(text)} characters, and not a payload alone")
    return frames


def _is_payload_alone(body: dict[str, Any]) -> bool:
    is_flat = all(isinstance(value, int if name == "id" else str) for name, value in body.items())
    return body["type"] == "publish" and body.keys() <= _PAYLOAD and is_flat


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Behind a name that comes twice it could hide any number of parts.

    :raises ValueError: if a name does.
    """
    body = dict(pairs)
    if len(body) < len(pairs):
        raise ValueError("a name comes twice")
    return body


def parse_payload(body: dict[str, Any]) -> bytes:
    """Return the payload of a client's ``publish`` frame.

    :raises ProtocolError: if it has neither ``data`` (text) nor ``base64``.
    """
    try:
        if isinstance(body.get("data"), str):
            # JSON may contain half of a surrogate pair, which cannot be encoded and so not be sent.
            return str(body["data"]).encode()
        if isinstance(body.get("base64"), str):
            return base64.b64decode(body["base64"], validate=True)
    except ValueError as error:  # of str.encode(), or of b64decode() in several kinds
        raise ProtocolError(f"bad payload: {error}") from error
    raise ProtocolError("'publish' needs 'data' or 'base64'")


def parse_positions(value: Any) -> Positions:
    """Return the positions in a client's ``hello`` frame, by channel label.

    :raises ProtocolError: if they are not ``{label: {"epoch": str, "offset": int}}``.
    """
    if not isinstance(value, dict):
        raise ProtocolError("'positions' is not an object")
    positions = {}
    for label, position in value.items():
        epoch = position.get("epoch") if isinstance(position, dict) else None
        offset = position.get("offset") if isinstance(position, dict) else None
        if not isinstance(epoch, str) or type(offset) is not int or offset < 0:
            raise ProtocolError(f"the position of {shown(label)} is not an epoch and an offset")
        positions[label] = Position(epoch, offset)
    return positions


def parse_id(body: dict[str, Any]) -> int:
    """Return the id of the subscription that a client's frame is about; 0 for that of its URL.

    :raises ProtocolError: if there is one which is no whole number from 1 to `MAX_ID`.
    """
    if "id" not in body:
        return 0
    number = body["id"]
    if type(number) is not int or not 0 < number <= MAX_ID:
        raise ProtocolError(f"an 'id' that is no whole number from 1 to {MAX_ID}")
    return number


class Wanted(NamedTuple):
    """A subscription that a client asks for."""

    #: Its id.
    number: int
    facility: str
    #: As the query string of a socket would have them.
    flags: list[str]
    #: By label, where the client stands.
    positions: Positions


def parse_subscribe(body: dict[str, Any]) -> Wanted:
    """Return what a client's ``subscribe`` frame asks for.

    :raises ProtocolError: if its id, facility, flags or positions are none.
    """
    number, facility, flags = parse_id(body), body.get("facility"), body.get("flags")
    if not number:
        raise ProtocolError("'subscribe' needs an 'id'")
    texts = [facility, *flags] if isinstance(flags, list) else [None]
    if not all(isinstance(text, str) and is_encodable(text) for text in texts):
        raise ProtocolError("'subscribe' needs a 'facility', and 'flags' in an array")
    size = sum(len(flag) + 1 for flag in flags or ())
    if size > MAX_FLAGS:
        raise ProtocolError(f"flags of {size} characters, of which there may be {MAX_FLAGS}")
    positions = parse_positions(body.get("positions", {}))
    if len(positions) > MAX_POSITIONS:
        raise ProtocolError(f"{len(positions)} positions, of which there may be {MAX_POSITIONS}")
    return Wanted(number, str(facility), [str(flag) for flag in flags or ()], positions)
