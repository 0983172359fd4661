"""What Redis keeps of a channel, and the scripts that write, send and read it.

Per channel name C there are three keys, in one Redis Cluster slot:

``C``
    the last stored message, as raw bytes, exactly where and how legacy ws4redis keeps it;
``{C}:history``
    a stream of the last messages; the id of an entry is its offset. A value in ``C`` that is not
    the last entry was put there by a foreign program;
``{C}:meta``
    a hash with the epoch and the offset of the channel. It outlives the history, so that a client
    can be told "you have missed nothing" after the entries have expired.

There is a fourth, ``{C}:count:<token>``, for seconds, while somebody asks how many sockets hear C.

Messages travel on two Redis pub/sub channels:

``{C}:events``
    in an envelope with epoch, offset and sender. Nobody publishes there but the commands here;
``C``
    bare payloads, as programs written for legacy publish and expect them. Whoever publishes there
    may pass on what a stranger has sent, so nothing about these bytes is ever looked at.

The scripts are in ``publish.lua``, ``unkept.lua`` and ``read.lua``, whose first lines name keys and
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from typing import NamedTuple

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.messages import UNKEPT, Event, Position, Question
from channels_ws4redis.store.scripts import Command, Script


def load_script(*names: str, before: str = "") -> Script:
    """Return the script whose text is that of these files, one after the other.

    :param before: what stands before them.
    """
    folder = files("channels_ws4redis.store")
    texts = ((folder / name).read_text() for name in ("common.lua", *names))
    return Script(before + "".join(texts))


@lru_cache(maxsize=64)
def _publish_script(lifetime: int, size: int, limit: int, keys_each: int, mirrors: bool) -> Script:
    """Return ``publish.lua`` for what the settings say; of that there are few cases."""
    values = f"{lifetime}, {size}, {limit}, {keys_each}, {'true' if mirrors else 'false'}"
    before = f"local lifetime, size, limit, keys_each, mirrors = {values}\n"
    return load_script("standing.lua", "publish.lua", before=before)


_UNKEPT = load_script("unkept.lua")
_FETCH = Script("return redis.call('GET', KEYS[1])")
_QUESTION = load_script("question.lua")
_ANSWER = Script(
    "redis.call('XADD', KEYS[1], '*', 'n', ARGV[1]) return redis.call('EXPIRE', KEYS[1], ARGV[2])"
)
_ANSWERS = Script("return redis.call('XRANGE', KEYS[1], '-', '+')")

#: The first word of an envelope that holds a question; that of any other is an epoch.
_QUESTION_MARK = "?"

#: Seconds for which answers are kept.
ANSWER_EXPIRE = 10

#: Seconds, some thirty years. Redis refuses an expire time that overflows its clock, and would do
#: so in the middle of the script that publishes.
MAX_EXPIRE = 10**9


class Publication(NamedTuple):
    """One message for some channels."""

    channels: Sequence[str]
    payload: bytes
    #: Seconds to store the message; 0 leaves an older stored message in place.
    expire: int
    #: Identity of the publishing socket, "" for Django code.
    sender: str = ""
    #: Idempotency key, "" for none.
    key: str = ""
    #: Messages that are kept of a channel; None for as many as WS4REDIS_HISTORY says.
    history: int | None = None
    #: False to send the message and nothing else: it gets no number, and nothing is written.
    keep: bool = True
    #: Seconds for which the history is kept after this message; None for as long as
    #: WS4REDIS_HISTORY_EXPIRE says.
    history_expire: int | None = None
    #: The version of what the message is about, from 0 up: where a channel has had this one or a
    #: later one, nothing is published. None if it has none.
    version: int | None = None


class Published(NamedTuple):
    """What a publish has come to."""

    #: What the server has said, to be passed to the next `publish_command`.
    said: bytes
    #: Where each channel stands now.
    positions: dict[str, Position]
    #: The channels that had the version already, and got nothing.
    idle: frozenset[str] = frozenset()

    def events(self, publication: Publication) -> list[Event]:
        """Return what has still to be sent, where the script only stores."""
        payload, sender = publication.payload, publication.sender
        return [
            Event(channel, payload, *position, sender)
            for channel, position in self.positions.items()
            if channel not in self.idle
        ]


def events_channel(name: str, prefix: str = "") -> str:
    """Return the Redis pub/sub channel on which envelopes of a channel travel.

    :param prefix: of the channel layer.
    """
    return f"{prefix}{{{name}}}:events"


def publish_command(
    publication: Publication, prefix: str | None, mirror: bool, said: bytes = b""
) -> Command:
    """Return the command that stores a message and publishes it.

    :param prefix: see `events_channel`; None to store only, as a channel layer sends.
    :param mirror: also publish the bare payload on the channel name, for legacy servers.
    :param said: what the command has returned last to the same user.
    """
    channels, payload, expire, sender, key, history, *_ = publication
    script = _publish_script(
        settings.WS4REDIS_META_EXPIRE,
        settings.WS4REDIS_HISTORY if history is None else history,
        settings.WS4REDIS_HISTORY_BYTES,
        4 if key else 3,
        mirror,
    )
    # As bytes, a sender is not remembered: there are as many as sockets.
    args: list[str | bytes | int] = [payload, sender.encode(), expire, said]
    args += [] if prefix is None else [prefix]
    keys = list(chain.from_iterable(channel_keys(name, key) for name in channels))
    return Command(script, keys, args)


def unkept_command(publication: Publication, prefix: str | None, mirror: bool) -> Command:
    """Return the command that publishes a message that is not kept.

    The parameters are those of `publish_command`. For one channel a bare PUBLISH does.
    """
    channels, payload, sender = publication.channels, publication.payload, publication.sender
    head = f"{UNKEPT} 0 {sender} {int(mirror)}\n".encode()
    args: list[str | bytes | int] = [head, payload, int(mirror)]
    args += [] if prefix is None else [prefix]
    if prefix is None or mirror or len(channels) > 1:
        return Command(_UNKEPT, channels, args)
    short = "PUBLISH", events_channel(channels[0], prefix), head + payload
    return Command(_UNKEPT, channels, args, short)


def unkept_events(publication: Publication) -> list[Event]:
    """Return the events of a message that is not kept."""
    return [
        Event(channel, publication.payload, UNKEPT, 0, publication.sender)
        for channel in publication.channels
    ]


def channel_keys(name: str, once: str = "") -> list[str]:
    """Return the keys of a channel.

    :param once: an idempotency key, which has one as well.
    """
    keys = [name, f"{{{name}}}:history", f"{{{name}}}:meta"]
    if once:
        # Without a brace of its own, or a channel that somebody names could have the same key.
        keys.append(f"{{{name}}}:once:{once.replace('%', '%25').replace('}', '%7D')}")
    return keys


def parse_published(publication: Publication, reply: bytes) -> Published:
    """Return what `publish_command` has returned."""
    said, _, found = reply.rpartition(b"\n")
    words = found.decode().split(" ")
    positions = map(Position, words[::2], map(int, words[1::2]))
    return Published(said, dict(zip(publication.channels, positions, strict=True)))


def parse_envelope(channel: str, data: bytes) -> tuple[Event | Question, bool]:
    """Return what is in an envelope, and whether its bare payload follows on the other channel.

    :raises ValueError: if it was written by none of the commands here.
    """
    head, _, payload = data.partition(b"\n")
    words = head.decode().split(" ")
    if words[0] == _QUESTION_MARK:
        _, token = words
        return Question(channel, token), False
    epoch, offset, sender, mirrored = words
    return Event(channel, payload, epoch, int(offset), sender), mirrored == "1"


def fetch_command(name: str) -> Command:
    """Return the command that reads the stored message of a channel and nothing else."""
    return Command(_FETCH, [name], [])


def question_command(question: Question, prefix: str) -> Command:
    """Return the command that asks a question.

    It returns how many processes have got the question, as far as Redis can tell.

    :param prefix: see `events_channel`.
    """
    name, envelope = question.channel, f"{_QUESTION_MARK} {question.token}\n"
    return Command(_QUESTION, [], [events_channel(name, prefix), name, envelope])


def answer_command(question: Question, sockets: int) -> Command:
    """Return the command that answers a question."""
    return Command(_ANSWER, [_answers_key(question)], [sockets, ANSWER_EXPIRE])


def answers_command(question: Question) -> Command:
    """Return the command that reads the answers to a question that have come."""
    return Command(_ANSWERS, [_answers_key(question)], [])


def _answers_key(question: Question) -> str:
    return f"{{{question.channel}}}:count:{question.token}"
