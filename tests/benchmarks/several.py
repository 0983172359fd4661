"""Several processes of a server on one port: ``several.py PORT COUNT COMMAND...``.

Each gets a listening socket of its own, whose number takes the place of ``{fd}`` in the command.
The system shares out connections among these evenly (``SO_REUSEPORT``). Of one socket for all, some
process would take more than others, and the slowest would say how fast all are.
"""

from __future__ import annotations

import socket
import subprocess
import sys


def main(port: int, count: int, command: list[str]) -> None:
    """Start the processes, and wait for their end."""
    listeners = []
    for _ in range(count):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        listeners.append(listener)
    processes = [
        subprocess.Popen(
            [part.replace("{fd}", str(listener.fileno())) for part in command],
            pass_fds=[listener.fileno()],
        )
        for listener in listeners
    ]
    for listener in listeners:
        listener.close()
    for process in processes:
        process.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
