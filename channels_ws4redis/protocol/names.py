"""Who hears a message: audiences, the flags of the socket URL, and the names of channels.

Every channel name is made by :func:`channel_name`. The same string is the channel-layer group,
the Redis key of the stored message, and what ``redis-cli`` shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from django.db.models import Model

from channels_ws4redis.protocol.texts import is_encodable

BROADCAST: Final = "broadcast"
SESSION: Final = "session"
USER: Final = "user"
GROUP: Final = "group"

#: In the order in which ``fetch_message`` searches them.
AUDIENCES: Final = (SESSION, USER, GROUP, BROADCAST)

#: Sets of channels whose labels are remembered.
REMEMBERED: Final = 1024

#: The session key that holds the names of the visitor's auth groups.
MEMBER_OF: Final = "ws4redis:memberof"
#: The session key of what the login has written there.
AT_LOGIN: Final = "ws4redis:memberof-at-login"


class SelfType:
    """The type of :data:`SELF`."""

    def __repr__(self) -> str:
        return "SELF"


#: Stands for the user, the auth groups or the session of the request at hand.
SELF: Final = SelfType()


def channel_name(prefix: str, audience: str, identity: str | None, facility: str) -> str:
    """Return the name of a channel.

    :param prefix: what every name begins with, its colon included, as in ``demo:``; or "".
    :param audience: one of `AUDIENCES`.
    :param identity: user name, auth group name or session key; None for a broadcast.
    :param facility: the part of the URL path after ``WEBSOCKET_URL``.

    ``%`` and ``:`` inside an identity are percent-escaped. Otherwise the auth group ``staff:x`` on
    the facility ``chat`` and the auth group ``staff`` on the facility ``x:chat`` would have the
    same channel, and a client may choose its facility.
    """
    if identity is None:
        return f"{prefix}{audience}:{facility}"
    escaped = identity.replace("%", "%25").replace(":", "%3A")
    return f"{prefix}{audience}:{escaped}:{facility}"


def control_channel(prefix: str) -> str:
    """Return the name of the channel on which processes tell each other whom to cut off.

    No client, publisher or auth group has a channel of this name, as theirs begin with an audience.

    :param prefix: what every name begins with, its colon included, or "".
    """
    return f"{prefix}ws4redis:control"


def auth_group_of(prefix: str, name: str) -> str | None:
    """Return the auth group whose channel has a name; None for a channel of another audience.

    :param prefix: what the name begins with, its colon included, or "".
    """
    audience, _, group = (_label(name.removeprefix(prefix)) or "").partition(":")
    return group if audience == GROUP else None


def channel_labels(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Return the label by which a client knows each of its channels, by channel name.

    A label contains neither a session key nor the user name of the socket's own user, as a page
    must not find these out. A name that a custom subscriber has made up is labelled by a digest.

    Whoever asks for the same names gets the same dictionary, which is not to be changed: mostly all
    sockets of a facility do.

    :param prefix: what the names begin with, its colon included, or "".
    """
    return _labels_of(prefix, tuple(names))


@lru_cache(maxsize=REMEMBERED)
def _labels_of(prefix: str, names: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        label = _label(name.removeprefix(prefix))
        if label is None or label in taken:
            label = "other:" + hashlib.blake2s(name.encode(), digest_size=8).hexdigest()
        taken.add(label)
        labels[name] = label
    return labels


def _label(name: str) -> str | None:
    audience, _, rest = name.partition(":")
    if audience in (BROADCAST, USER, SESSION):
        return audience
    if audience == GROUP:
        identity = rest.partition(":")[0]
        return f"{GROUP}:{identity.replace('%3A', ':').replace('%25', '%')}"
    return None


#: What all flags but ``echo`` begin with.
VERBS: Final = ("subscribe-", "publish-")


class Flags(NamedTuple):
    """What the query string of a socket asks for."""

    #: Flags that there are, such as ``subscribe-user``.
    known: list[str]
    echo: bool
    #: What begins as flags do and is none.
    unknown: list[str]


def parse_flags(query_string: bytes, known: Collection[str]) -> Flags:
    """Return the flags in a socket's query string; case is ignored, and so is a flag's value.

    :param known: the flags besides ``echo`` that there are. What is no flag in the query string is
        ignored, and so is a query string that is none.
    """
    text = query_string.decode("utf-8", "replace")
    names = [name.strip().lower() for name, _ in parse_qsl(text, keep_blank_values=True)]
    found = dict.fromkeys(name for name in names if name in known)
    unknown = dict.fromkeys(n for n in names if n.startswith(VERBS) and n not in known)
    return Flags(list(found), "echo" in names, list(unknown))


def is_public(flags: Iterable[str]) -> bool:
    """Tell whether flags ask for broadcasts alone, which depend on no user."""
    return all(flag.endswith(f"-{BROADCAST}") for flag in flags)


def audience_arguments(verb: str, flags: Collection[str]) -> dict[str, Any]:
    """Return the audience arguments of a publisher that a socket's flags stand for.

    :param verb: ``subscribe`` or ``publish``.
    """
    return {
        "users": [SELF] if f"{verb}-{USER}" in flags else [],
        "groups": [SELF] if f"{verb}-{GROUP}" in flags else [],
        "sessions": [SELF] if f"{verb}-{SESSION}" in flags else [],
        "broadcast": f"{verb}-{BROADCAST}" in flags,
    }


_BYTES = bytes | bytearray | memoryview


def identities(values: Any, keyword: str) -> list[str | SelfType]:
    """Return the identities in an audience argument of a publisher, without repetitions.

    :param values: a name, a ``User``, a ``Group``, a session, :data:`SELF`, or any iterable of
        these. None, an anonymous user and an unsaved session name nobody and are left out.
    :param keyword: the argument's name (``users``, ``groups`` or ``sessions``), for the error.
    :raises ValueError: for a value that can only be a mistake: a number, bytes, a mapping, …
    """
    if type(values) not in {list, tuple}:  # which nearly all are, and the rest takes long
        values = _listed(values, keyword)
    found = (_identity(value, keyword) for value in values)
    return list(dict.fromkeys(value for value in found if value))


def _listed(values: Any, keyword: str) -> Iterable[Any]:
    if values is None or isinstance(values, str | SelfType | UUID) or _name_of(values) is not None:
        return [values]
    if isinstance(values, _BYTES | Mapping) or not isinstance(values, Iterable):
        raise ValueError(
            f"{keyword}={values!r} names nobody; pass a name or a list of names, e.g. "
            f"{keyword}=['john'], or {keyword}=[SELF] together with request=."
        )
    return values


def _identity(value: Any, keyword: str) -> str | SelfType:
    if value is None or isinstance(value, SelfType):
        return value or ""
    name = _as_text(value) if isinstance(value, str | UUID) else _name_of(value)
    if name is None or not is_encodable(name):
        raise ValueError(
            f"{keyword} contains {value!r}, which names nobody; use a str, a User, a Group, "
            "or SELF." + _remedy_for_number(value, keyword)
        )
    return name


def _remedy_for_number(value: Any, keyword: str) -> str:
    """Tell those who pass a number, which legacy took as text: mostly it was nobody's name."""
    if type(value) is not int:
        return ""
    return f" A primary key is no name; write {keyword}=['{value}'] if it is one."


def _name_of(value: Any) -> str | None:
    """Return the name of a user, a session or an auth group.

    It is "" for an anonymous user and for an unsaved session, and None for every other object:
    other models are refused, as the text that stands for them ("Room object (1)") is no name.
    """
    if isinstance(value, type):
        return None
    if hasattr(value, "get_username"):
        return str(value.get_username() or "")
    if hasattr(value, "session_key"):
        return str(value.session_key or "")
    if isinstance(value, Model) and isinstance(getattr(value, "name", None), str):
        return str(value.name)  # type: ignore[attr-defined] # asked for on the line above
    return None


def as_facility(value: Any) -> str:
    """Return a publisher's ``facility=`` as text; numbers and UUIDs are common there.

    :raises ValueError: for None, True and False, bytes, containers, and text that is no Unicode.
    """
    text = _as_text(value)
    if (
        value is None
        or (not isinstance(value, str) and isinstance(value, bool | Collection))
        or not is_encodable(text)
    ):
        raise ValueError(
            f"facility={value!r} is no facility; pass the part of the URL path after "
            "WEBSOCKET_URL, e.g. facility='foobar'."
        )
    return text


def _as_text(value: Any) -> str:
    """Return a plain ``str``; a member of an enumeration of texts gives its value, not its name."""
    # The type is asked and not the object: a lazy translation pretends to be a str but is none.
    return str.__str__(value) if issubclass(type(value), str) else str(value)
