"""What Redis refuses to do, told so that whoever runs Redis knows what to change."""

from __future__ import annotations

from typing import Any

import redis

from channels_ws4redis.protocol.texts import escaped, shown

#: What servers say of it in a script, where it has no code of its own: from 7.2 on, and before.
_IN_SCRIPTS = "ACL failure in script", "The user executing the script can't"

#: What the ACL of Redis's user needs for our scripts.
SCRIPTS_NEED = "the commands, ~ for keys and & for pub/sub channels that the page on Redis lists"


def is_refusal(error: object) -> bool:
    """Tell whether Redis has refused something that its ACL does not allow."""
    return isinstance(error, redis.exceptions.NoPermissionError) or (
        isinstance(error, redis.exceptions.ResponseError)
        and any(words in str(error) for words in _IN_SCRIPTS)
    )


def is_refusal_as_a_whole(error: Exception) -> bool:
    """Tell whether an ACL has kept a script from running, perhaps for one of its keys alone.

    What is refused within the script has no effect on its other keys; Redis says so then.
    """
    return isinstance(error, redis.exceptions.NoPermissionError) and "script" not in str(error)


def is_of_many_slots(error: Exception) -> bool:
    """Tell whether a Redis in cluster mode, be it of one node only, has refused a script's keys.

    By its text: redis-py 5 makes it a plain ResponseError, later ones take the code off.
    """
    text = "to the same slot"
    return isinstance(error, redis.exceptions.ResponseError) and text in str(error)


def explained(error: Exception, client: Any, action: str, remedy: str) -> Exception:
    """Return a refusal with the name of Redis's user, what was refused, and the remedy.

    :param error: in Redis's own words, which do not name the channel; any other is returned as is.
    :param client: of redis-py, which knows as whom it connects.
    :param action: what the user may not do.
    :param remedy: what its ACL needs.
    """
    if not is_refusal(error):
        return error
    user = client.connection_pool.connection_kwargs.get("username") or "default"
    words = escaped(" ".join(str(error).split()).rstrip("."))
    return redis.exceptions.NoPermissionError(
        f"Redis's user {shown(user)} may not {action}; its ACL needs {remedy} ({words})"
    )
