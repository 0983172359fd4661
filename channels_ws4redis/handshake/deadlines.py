"""How long a handshake may wait for what.

Daphne gives all of a handshake 5 seconds (``--websocket_connect_timeout``), and then refuses it
without a reason. What takes too long has to be told to the client before that.
"""

from __future__ import annotations

#: Seconds for its turn, where more sockets are opened than may be.
TURN_PATIENCE = 3.0

#: Seconds for threads, altogether.
THREAD_PATIENCE = 3.0

#: Seconds for the decision of a policy, those for which it waits for a thread among them.
POLICY_TIMEOUT = 4.0
