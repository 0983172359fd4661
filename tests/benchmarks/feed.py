"""The publishing side of the fan-out cases: it publishes what its standard input asks for.

Each line is ``<sequence number> <target>``; the target is ``-`` for all or the number of a user.
The payload begins with the moment of publishing, so that the load generator can tell the latency.
Every contender publishes the way its users do, from the environment it is installed in.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import sys
import time
from collections.abc import Callable

FACILITY = "bench"
Send = Callable[[str, str], None]


def user_name(number: str) -> str:
    """Return the name of a user of the benchmark."""
    return f"user{number}"


def redis_sender() -> Send:
    """Publish on the ceiling's own Redis channels."""
    import redis

    client = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])

    def send(target: str, payload: str) -> None:
        client.publish(FACILITY if target == "-" else f"{FACILITY}:{user_name(target)}", payload)

    return send


def channels_sender() -> Send:
    """Publish with ``group_send`` on one long-lived event loop."""
    _setup_django()
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    loop = asyncio.new_event_loop()

    def send(target: str, payload: str) -> None:
        group = FACILITY if target == "-" else f"{FACILITY}_{user_name(target)}"
        event = {"type": "chat.message", "message": payload}
        loop.run_until_complete(layer.group_send(group, event))

    return send


def package_sender() -> Send:
    """Publish with this package's ``RedisPublisher``."""
    _setup_django()
    from channels_ws4redis.publisher import RedisPublisher
    from channels_ws4redis.redis_store import RedisMessage

    return _publisher_sender(RedisPublisher, RedisMessage)


def legacy_sender() -> Send:
    """Publish with the ``RedisPublisher`` of django-websocket-redis."""
    _setup_django()
    from ws4redis.publisher import RedisPublisher  # type: ignore[import-not-found]
    from ws4redis.redis_store import RedisMessage  # type: ignore[import-not-found]

    return _publisher_sender(RedisPublisher, RedisMessage)


def nchan_sender() -> Send:
    """Publish with POST requests on one kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["BENCH_PORT"]))

    def send(target: str, payload: str) -> None:
        user = "" if target == "-" else user_name(target)
        connection.request("POST", f"/publish?user={user}", payload.encode())
        connection.getresponse().read()

    return send


def eventstream_sender() -> Send:
    """Publish with ``send_event`` of django-eventstream."""
    _setup_django()
    from django_eventstream import send_event  # type: ignore[import-not-found]

    def send(target: str, payload: str) -> None:
        send_event(FACILITY, "message", payload, json_encode=False)

    return send


def _publisher_sender(publisher: type, message: type) -> Send:
    def send(target: str, payload: str) -> None:
        if target == "-":
            audience = publisher(facility=FACILITY, broadcast=True)
        else:
            audience = publisher(facility=FACILITY, users=[user_name(target)])
        # Not persisted, because no other contender persists anything.
        audience.publish_message(message(payload), expire=0)

    return send


def _setup_django() -> None:
    import django

    django.setup()


SENDERS: dict[str, Callable[[], Send]] = {
    "redis": redis_sender,
    "channels": channels_sender,
    "package": package_sender,
    "legacy": legacy_sender,
    "nchan": nchan_sender,
    "eventstream": eventstream_sender,
}


def main(kind: str, payload_bytes: int) -> None:
    """Publish until standard input ends."""
    send = SENDERS[kind]()
    for line in sys.stdin:
        sequence, target = line.split()
        payload = f"{time.monotonic_ns():020d} {int(sequence):08d} "
        send(target, payload.ljust(payload_bytes, "x"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
