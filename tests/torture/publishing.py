"""The publisher process: numbers for every facility, each repeated until Redis has taken it.

Run as ``python -m tests.torture.publishing RATE FACILITIES``. It prints the facility
and the number of what was acknowledged, and takes ``burst FACILITY`` and ``finish`` on its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

import django
import redis
from channels.layers import get_channel_layer
from django.conf import settings

from channels_ws4redis.publisher import RedisPublisher

#: How many messages of how many bytes a burst is: more than the buffers between server and client.
BURST = 150, 64 * 1024

#: Seconds between attempts to publish while Redis is away.
RETRY = 0.1


class Publishing:
    """Sends numbers to facilities, at a steady rate."""

    def __init__(self, rate: float, facilities: int) -> None:
        self._interval = 1 / rate
        self._numbers = [0] * facilities
        self._bursts: list[int] = []
        self._finished = threading.Event()
        self._publishers = [
            RedisPublisher(facility=f"torture-{index}", broadcast=True)
            for index in range(facilities)
        ]
        self._loop = asyncio.new_event_loop()
        self._run = os.urandom(8).hex()

    def obey(self) -> None:
        """Take commands until the input ends."""
        for line in sys.stdin:
            command, *arguments = line.split()
            if command == "finish":
                break
            self._bursts.append(int(arguments[0]))
        self._finished.set()

    def run(self) -> None:
        """Publish until told to finish."""
        due = time.monotonic()
        while not self._finished.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._interval, time.monotonic() - 1)
            for facility in range(len(self._numbers)):
                self._publish(facility)
            while self._bursts:
                facility = self._bursts.pop(0)
                for _ in range(BURST[0]):
                    self._publish(facility, "x" * BURST[1])

    def _publish(self, facility: int, padding: str = "") -> None:
        self._numbers[facility] += 1
        number = self._numbers[facility]
        message = json.dumps({"n": number, "x": padding})
        while not self._finished.is_set():
            try:
                self._send(facility, message, f"{self._run}-{number}")
            except (redis.exceptions.RedisError, OSError):
                time.sleep(RETRY)
            else:
                sys.stdout.write(f"{facility} {number}\n")
                sys.stdout.flush()
                return

    def _send(self, facility: int, message: str, key: str) -> None:
        if not settings.STOCK:  # type: ignore[misc] # of our own settings module
            self._publishers[facility].publish_message(message, idempotency_key=key)
            return
        layer: Any = get_channel_layer()
        event = {"type": "chat.message", "message": message}
        self._loop.run_until_complete(layer.group_send(f"torture-{facility}", event))


if __name__ == "__main__":
    django.setup()
    publishing = Publishing(float(sys.argv[1]), int(sys.argv[2]))
    threading.Thread(target=publishing.obey, daemon=True).start()
    publishing.run()
