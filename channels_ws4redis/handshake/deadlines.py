"""How long a handshake may wait for what, in seconds.

Daphne gives all of a handshake 5 seconds (``--websocket_connect_timeout``), and then refuses it
without a reason. What takes too long has to be told to the client before that. So each thing that a
handshake waits for has a time of its own, and none may last beyond the `HANDSHAKE`, which `Calls`
has begun. A hook alone may take longer, for projects that give their server more patience.
"""

from __future__ import annotations

#: For all that is waited for together, from the beginning. The second that daphne gives beyond that
#: is for a process that is busy.
HANDSHAKE = 4.0

#: For its turn, where more sockets are opened than may be.
TURN = 3.0

#: For others to be looked up with it, after which the socket asks by itself.
TOGETHER = 1.0

#: For a thread, each time.
THREAD = 3.0

#: For the decision of a policy, the time among it for which that waits for a thread: longer than
#: that, as a policy is not to blame that had none.
POLICY = 3.5

#: For the end of one call. Nobody waits that long for a page. The thread of a call that hangs is
#: lost until it ends, as no thread can be ended from outside.
CALL = 20.0

#: For a thread to begin when the time of the handshake is up, as one that is free is had in any
#: case; and for an asynchronous hook to end when it is cancelled.
LAST = 0.1
