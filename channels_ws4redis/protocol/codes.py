"""With which codes the package closes sockets (RFC 6455, section 7.4).

The browser client comes back after each of them below `FIRST_FINAL`.
"""

from __future__ import annotations

from typing import Final

#: The server stops.
GOING_AWAY: Final = 1001
#: The subscription may not be. (A socket of its own would be refused with 403, without a code.)
REFUSED: Final = 1008
#: The client has sent more bytes in one message than it may.
MESSAGE_TOO_BIG: Final = 1009
#: Redis has refused what the client sent, or the server a frame.
SERVER_ERROR: Final = 1011
#: Redis cannot be reached, or the socket cannot be served for another reason that passes.
TRY_AGAIN_LATER: Final = 1013
#: A reason that goes with it where the same client had better stay away for so many seconds.
RETRY_AFTER: Final = "retry-after=10"
#: The client reads too slowly, or does not say hello.
TOO_SLOW: Final = 4002
#: From here on the browser client stays away until the page has it come back.
FIRST_FINAL: Final = 4500
#: The client has broken the package's own protocol.
PROTOCOL_ERROR: Final = 4500
#: The socket may not hear any more what it has heard.
REVOKED: Final = 4501

#: Those for which what the client has sent is to blame in no way. What it had sent before is
#: published all the same. With every other code, also of the project, nothing more is.
BLAMELESS: Final = {GOING_AWAY, SERVER_ERROR, TRY_AGAIN_LATER, TOO_SLOW}


def is_owed_no_patience(code: int) -> bool:
    """Tell whether the connection is dropped if the client does not answer the close frame."""
    return code == MESSAGE_TOO_BIG or code >= FIRST_FINAL


def may_be_chosen(code: int) -> bool:
    """Tell whether RFC 6455 leaves a code to applications; 1013 is for clients that may return."""
    return code in (1000, TRY_AGAIN_LATER) or 3000 <= code <= 4999
