"""Subscribers whose clients have to wait."""

import logging
import time
from typing import Any

from channels_ws4redis.subscriber import RedisSubscriber


class SlowSubscriber(RedisSubscriber):
    """Takes its time for each message of its client."""

    seconds = 2.0

    def publish_message(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Publish a message after a while."""
        time.sleep(self.seconds)
        return super().publish_message(message, *args, **kwargs)


class LeisurelySubscriber(SlowSubscriber):
    """Takes less time, and notes when it is released."""

    seconds = 0.3

    def release(self) -> None:
        """Note how many messages have been published before."""
        self._connection.rpush("released", self._connection.xlen("{broadcast:foo}:history"))
        super().release()


class ReplayingSubscriber(RedisSubscriber):
    """Sends what is stored for as long as the client is there."""

    def send_persisted_messages(self, websocket: Any) -> None:
        """Send until the client has gone."""
        self._connection.rpush("replaying", "yes")
        while True:
            websocket.send("x")
            time.sleep(0.05)

    def publish_message(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Publish in a thread, which waits until what is stored has been sent."""
        return super().publish_message(message, *args, **kwargs)


class PausingSubscriber(RedisSubscriber):
    """Has Redis fall silent for a while before it subscribes."""

    def set_pubsub_channels(self, request: Any, channels: Any) -> None:
        """Wait for the confirmation."""
        self._connection.client_pause(2000)
        logging.getLogger(__name__).warning("Subscribing")
        super().set_pubsub_channels(request, channels)
