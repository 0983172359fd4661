"""A subscriber whose clients have to wait."""

import time
from typing import Any

from channels_ws4redis.subscriber import RedisSubscriber


class SlowSubscriber(RedisSubscriber):
    """Takes its time for each message of its client."""

    def publish_message(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Publish a message after a while."""
        time.sleep(2)
        return super().publish_message(message, *args, **kwargs)
