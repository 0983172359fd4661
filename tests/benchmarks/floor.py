"""What the kernel takes for its part: a bare ``write`` of a frame to each of many sockets."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import socket
import statistics
import time

SOCKETS = 500
REPETITIONS = 5
#: Frames to each socket in one repetition; all of them have room in the buffers of the kernel.
FRAMES = 40
#: Bytes that stand in a frame of the benchmark beside the payload.
OVERHEAD = 4


def seconds_per_write(payload_bytes: int) -> float:
    """Return the processor time of one write, the median of some repetitions.

    No server that writes to every socket by itself can need less for a delivery.
    """
    frame = b"x" * (payload_bytes + OVERHEAD)
    with socket.create_server(("127.0.0.1", 0), backlog=SOCKETS) as server:
        port: int = server.getsockname()[1]
        # Not a fork, which would keep the sockets of this process open.
        reader = multiprocessing.get_context("spawn").Process(target=_read, args=(port,))
        reader.start()
        connections = [server.accept()[0] for _ in range(SOCKETS)]
        try:
            for connection in connections:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return statistics.median(_repeat(connections, frame) for _ in range(REPETITIONS))
        finally:
            for connection in connections:
                connection.close()
            reader.join()


def _repeat(connections: list[socket.socket], frame: bytes) -> float:
    descriptors = [connection.fileno() for connection in connections]
    began = time.process_time()
    for _ in range(FRAMES):
        for descriptor in descriptors:
            os.write(descriptor, frame)
    return (time.process_time() - began) / (FRAMES * SOCKETS)


def _read(port: int) -> None:
    """Read all that comes, as the clients of a server do, until the last socket is closed."""
    with selectors.DefaultSelector() as selector:
        for _ in range(SOCKETS):
            client = socket.create_connection(("127.0.0.1", port))
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.recv(65536):
                    selector.unregister(key.data)
                    key.data.close()
