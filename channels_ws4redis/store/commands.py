"""What Redis keeps of a channel, and the scripts that write, send and read it.

Per channel name C there are three keys, in one Redis Cluster slot:

``C``
    the last stored message, as raw bytes, exactly where and how legacy ws4redis keeps it;
``{C}:history``
    a stream of the last messages, stored or not; the id of an entry is its offset. It is there for
    those who come back, and has a life of its own;
``{C}:meta``
    a hash with the epoch and the offset of the channel. It outlives the history, so that a client
    can be told "you have missed nothing" after the entries have expired. It also knows which
    message was the last to be stored in ``C``, and how long a history publishers have asked for.

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
from typing import NamedTuple, Self

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.messages import UNKEPT, Event, Position, Positions, Purge, Question
from channels_ws4redis.store.scripts import Command, Script


def load_script(*names: str, before: str = "") -> Script:
    """Return the script whose text is that of these files, one after the other.

    :param before: what stands before them.
    """
    folder = files("channels_ws4redis.store")
    texts = ((folder / name).read_text() for name in ("common.lua", *names))
    return Script(before + "".join(texts))


@lru_cache(maxsize=64)
def _publish_script(lifetime: int, size: int, keep: int, *others: int) -> Script:
    """Return ``publish.lua`` for what the settings say; of that there are few cases."""
    values = lifetime, size, keep, repr(f"{size}:{keep}"), *others
    words = ", ".join(value if isinstance(value, str) else str(value).lower() for value in values)
    names = "lifetime, size, keep, asked, limit, keys_each, mirrors, sends, purges"
    before = f"local {names} = {words}\n"
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


class Publication(NamedTuple):
    """One message for some channels."""

    channels: Sequence[str]
    payload: bytes
    #: Seconds to store the message for newcomers; 0 leaves an older stored message in place.
    expire: int
    #: Identity of the publishing socket, "" for Django code.
    sender: str = ""
    #: Idempotency key, "" for none.
    key: str = ""
    #: Messages in the history of a channel; None for as many as WS4REDIS_HISTORY says.
    history: int | None = None
    #: False to send the message and nothing else: it gets no number, and nothing is written.
    keep: bool = True
    #: Seconds for which the history is kept after this message; None for as long as
    #: WS4REDIS_HISTORY_EXPIRE says.
    history_expire: int | None = None
    #: The version of what the message is about, from 0 up: where a channel has had this one or a
    #: later one, nothing is published. None if it has none.
    version: int | None = None
    #: True to delete what is kept of the channels, and to tell those who hear them. The fields that
    #: are about a message have no effect then.
    purges: bool = False

    @classmethod
    def purge(cls, channels: Sequence[str]) -> Self:
        """Return what purges channels."""
        return cls(channels, b"", 0, purges=True)


class Published(NamedTuple):
    """What a publish has come to."""

    #: What the server has said, to be passed to the next `publish_command`.
    said: bytes
    #: Where each channel stands now.
    positions: Positions
    #: The channels that had the version already, and got nothing.
    idle: frozenset[str]

    def events(self, publication: Publication) -> list[Event]:
        """Return what has still to be sent, where the script only keeps it."""
        if publication.purges:
            return [Purge(channel, *position) for channel, position in self.positions.items()]
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
    """Return the command that keeps a message and publishes it, or purges.

    :param prefix: see `events_channel`; None to keep it only, as a channel layer sends.
    :param mirror: also publish the bare payload on the channel name, for legacy servers.
    :param said: what the command has returned last to the same user.
    """
    payload, key, version = publication.payload, publication.key, publication.version
    # As bytes, a sender is not remembered: there are as many as sockets.
    sender = publication.sender.encode()
    args: list[str | bytes | int] = [payload, sender, publication.expire, said, prefix or ""]
    size, seconds = publication.history, publication.history_expire
    if version is not None or size is not None or seconds is not None:
        args.append("" if version is None else version)
        args.append(settings.WS4REDIS_HISTORY if size is None else size)
        args.append(settings.WS4REDIS_HISTORY_EXPIRE if seconds is None else seconds)
    script = _publish_script(
        settings.WS4REDIS_META_EXPIRE,
        settings.WS4REDIS_HISTORY,
        settings.WS4REDIS_HISTORY_EXPIRE,
        settings.WS4REDIS_HISTORY_BYTES,
        4 if key else 3,
        mirror and not publication.purges,
        prefix is not None,
        publication.purges,
    )
    keys = list(chain.from_iterable(channel_keys(name, key) for name in publication.channels))
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


def parse_published(channels: Sequence[str], reply: bytes) -> Published:
    """Return what `publish_command` has returned."""
    said, _, found = reply.rpartition(b"\n")
    words = found.decode().split(" ")
    epochs, offsets = words[::2], words[1::2]
    idle = frozenset(c for c, epoch in zip(channels, epochs, strict=True) if epoch[:1] == "=")
    positions = {
        channel: Position(epoch.removeprefix("="), int(offset))
        for channel, epoch, offset in zip(channels, epochs, offsets, strict=True)
    }
    return Published(said, positions, idle)


def parse_envelope(channel: str, data: bytes) -> tuple[Event | Question, bool]:
    """Return what is in an envelope, and whether its bare payload follows on the other channel.

    :raises ValueError: if it was written by none of the commands here.
    """
    head, _, payload = data.partition(b"\n")
    words = head.decode().split(" ")
    if words[0] == _QUESTION_MARK:
        _, token = words
        return Question(channel, token), False
    epoch, offset, sender, kind = words
    if kind == "purged":
        return Purge(channel, epoch, int(offset)), False
    return Event(channel, payload, epoch, int(offset), sender), kind == "1"


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
