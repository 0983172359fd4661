"""Hooks that take long, or send much, for the tests of who waits for whom."""

import asyncio
import os
import time

from channels_ws4redis.subscriber import RedisSubscriber


def half_a_second(request, channels):
    """Ask a slow service for each socket."""
    time.sleep(0.5)
    return channels


class Backlog(RedisSubscriber):
    """Sends ten megabytes at connect, and notes how that ended."""

    def send_persisted_messages(self, websocket):
        """Send more than an outbox and all buffers on the way take."""
        outcome = "all"
        try:
            for number in range(200):
                websocket.send(f"{number:03}" + "x" * 50_000)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._connection.rpush("outcomes", outcome)


class Noting(RedisSubscriber):
    """Notes in Redis when its handshake begins and goes on, and that it was released."""

    def set_pubsub_channels(self, request, channels):
        """Wait until the test says so."""
        self._connection.rpush("begun", os.getpid())
        self._connection.blpop("go", timeout=10)
        super().set_pubsub_channels(request, channels)
        self._connection.rpush("ended", "set_pubsub_channels")

    def release(self):
        """Note it."""
        self._connection.rpush("ended", "release")
        super().release()


def hang(request, channels):
    """Wait for a service that never answers, but for those who ask for the room."""
    if request.facility != "room":
        time.sleep(5)
    return channels


async def ahang(request, channels):
    """Do the same on the event loop."""
    if request.facility != "room":
        await asyncio.sleep(5)
    return channels
