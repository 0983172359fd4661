"""The numbers on the dashboard."""

import json
import math
import time
from threading import Event

from channels_ws4redis.publisher import RedisPublisher

FACILITY = "dashboard"


def visitors(at: float) -> int:
    """Return an invented number of visitors for a time in seconds.

    It depends on nothing else, so two feeds at once draw one line.
    """
    waves = 30 * math.sin(at / 9) + 14 * math.sin(at / 3.1) + 6 * math.sin(at / 0.77)
    return round(60 + waves)


def publish(at: float) -> None:
    """Publish the number of one moment to everyone who has the dashboard open."""
    message = json.dumps({"visitors": visitors(at), "at": round(at * 1000)})
    RedisPublisher(facility=FACILITY, broadcast=True).publish_message(message)


def feed(interval: float, stopped: Event, count: int | None = None) -> None:
    """Publish a number every `interval` seconds until stopped, or `count` numbers."""
    published = 0
    while count is None or published < count:
        publish(time.time())
        published += 1
        if stopped.wait(interval):
            break
