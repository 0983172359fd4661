"""What others have written: how large it is, how a log shows it, what was meant. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: The key of a session in the name of its channel. Whoever knows the key can be that visitor.
_SESSION_KEY = re.compile(r"\b(session:)[^:\s]+")


def escaped(text: str, limit: int = 500) -> str:
    """Return a text as one line that cannot be taken for another, nor move a terminal's cursor.

    In the names of channels, the keys of sessions are left out.

    :param limit: characters after which the text is cut, and the number of the others told.
    """
    start = _SESSION_KEY.sub(r"\1…", text[:limit])
    line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in start)
    return line if len(text) <= limit else f"{line}… ({len(text) - limit} more characters)"


def shown(text: str) -> str:
    """Return a value, such as a path, in quotes; see `escaped`."""
    return f"'{escaped(text, 200)}'"


def reason_of(why: BaseException | str) -> str:
    """Return what an operator needs to know of an error, on one line."""
    if isinstance(why, str):
        return why
    text = escaped(" ".join(str(why).split()))
    return f"{type(why).__name__}: {text}" if text else type(why).__name__


def is_longer(data: str | bytes, limit: int) -> bool:
    """Tell whether data has more bytes than a limit; text is encoded only if that is in doubt."""
    if not isinstance(data, str) or len(data) > limit:
        return len(data) > limit
    return 4 * len(data) > limit and len(data.encode("utf-8", "surrogatepass")) > limit


def meant_by(name: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the known name that another name is most similar to, None if it is like none.

    :param similarity: from 0 to 1, as difflib measures it.
    """
    return next(iter(get_close_matches(name, list(known), 1, similarity)), None)


def is_encodable(text: str) -> bool:
    """Tell whether a text can be encoded: half of a surrogate pair can not, nor be a name then."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
