"""What others have chosen, made fit for a log. Pure functions."""

from __future__ import annotations


def escaped(text: str, limit: int = 500) -> str:
    """Return a text as one line that cannot be taken for another, nor move a terminal's cursor.

    :param limit: characters after which the text is cut, and the number of the others told.
    """
    line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:limit])
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
