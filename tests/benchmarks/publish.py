"""What publishing costs plain synchronous code: a process of one publisher, told how much to do.

Run as ``python -m tests.benchmarks.publish KIND`` it reads requests as JSON lines and answers each
with one. It uses nothing but the standard library besides the publisher that it measures, as the
legacy one lives in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tests.benchmarks import redis_work
from tests.benchmarks.feed import FACILITY, user_name

#: Makes the call to be measured: (recipients, seconds to persist) -> call(payload).
Prepare = Callable[[int, int], Callable[[str], None]]
PERSIST = 3600


def _publisher(publisher_class: Any, message_class: Any, **options: Any) -> Prepare:
    def prepare(recipients: int, expire: int) -> Callable[[str], None]:
        users = [user_name(str(i)) for i in range(recipients)]

        def call(payload: str) -> None:
            # The whole of what a view writes, the making of the channel names included.
            publisher = publisher_class(facility=FACILITY, users=users)
            publisher.publish_message(message_class(payload), expire=expire, **options)

        return call

    return prepare


def package() -> Prepare:
    """Publish with this package."""
    _setup_django()
    from channels_ws4redis.publisher import RedisPublisher
    from channels_ws4redis.redis_store import RedisMessage

    return _publisher(RedisPublisher, RedisMessage)


def unkept() -> Prepare:
    """Publish with this package what need not be kept."""
    _setup_django()
    from channels_ws4redis.publisher import RedisPublisher
    from channels_ws4redis.redis_store import RedisMessage

    return _publisher(RedisPublisher, RedisMessage, keep=False)


def plain() -> Prepare:
    """Store and publish by the commands of redis-py, as a project without any package would."""
    import redis

    client: Any = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])

    def prepare(recipients: int, expire: int) -> Callable[[str], None]:
        names = [f"plain:{user_name(str(i))}" for i in range(recipients)]

        def call(payload: str) -> None:
            pipeline = client.pipeline(transaction=expire > 0)  # both or none, as here
            for name in names:
                if expire:
                    pipeline.set(name, payload, ex=expire)
                pipeline.publish(name, payload)
            pipeline.execute()

        return call

    return prepare


def broadcast() -> Prepare:
    """Publish with this package, to everybody."""
    _setup_django()
    from channels_ws4redis.publisher import RedisPublisher

    def prepare(recipients: int, expire: int) -> Callable[[str], None]:
        def call(payload: str) -> None:
            publisher = RedisPublisher(facility=FACILITY, broadcast=True)
            publisher.publish_message(payload, expire=expire)

        return call

    return prepare


def legacy() -> Prepare:
    """Publish with django-websocket-redis."""
    _setup_django()
    from ws4redis.publisher import RedisPublisher  # type: ignore[import-not-found]
    from ws4redis.redis_store import RedisMessage  # type: ignore[import-not-found]

    return _publisher(RedisPublisher, RedisMessage)


def bare() -> Prepare:
    """Send the very commands that this package sends, recorded beforehand, in one pipeline."""
    import redis
    from redis.connection import AbstractConnection

    through_package = package()
    client: Any = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
    connection_class: Any = AbstractConnection
    send = connection_class.send_packed_command

    def prepare(recipients: int, expire: int) -> Callable[[str], None]:
        recorded: list[bytes] = []

        def record(self: Any, command: Any, *args: Any, **options: Any) -> Any:
            recorded.extend([command] if isinstance(command, bytes) else command)
            return send(self, command, *args, **options)

        publish = through_package(recipients, expire)
        publish("x")  # loads the scripts
        mark = b"the payload"
        connection_class.send_packed_command = record
        try:
            publish(mark.decode())
        finally:
            connection_class.send_packed_command = send
        commands = list(_commands(b"".join(recorded)))
        if not any(mark in command for command in commands):
            raise RuntimeError("what this package sends could not be recorded")

        def call(payload: str) -> None:
            pipeline = client.pipeline(transaction=False)
            data = payload.encode()
            for args in commands:
                pipeline.execute_command(*[data if arg == mark else arg for arg in args])
            pipeline.execute()

        return call

    return prepare


def _commands(packed: bytes) -> Iterator[list[bytes]]:
    """Take commands as they go over the wire apart."""
    at = 0

    def number() -> int:
        nonlocal at
        end = packed.index(b"\r\n", at)
        found = int(packed[at + 1 : end])
        at = end + 2
        return found

    while at < len(packed):
        args = []
        for _ in range(number()):
            size = number()
            args.append(packed[at : at + size])
            at += size + 2
        yield args


def channels() -> Prepare:
    """Wrap ``group_send`` in ``async_to_sync``, as Channels' documentation says."""
    _setup_django()
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    layer = get_channel_layer()

    def prepare(recipients: int, expire: int) -> Callable[[str], None]:
        groups = [f"{FACILITY}_{user_name(str(i))}" for i in range(recipients)]

        def call(payload: str) -> None:
            for group in groups:
                event = {"type": "chat.message", "message": payload}
                async_to_sync(layer.group_send)(group, event)

        return call

    return prepare


KINDS: dict[str, Callable[[], Prepare]] = {
    "package": package,
    "unkept": unkept,
    "plain": plain,
    "broadcast": broadcast,
    "legacy": legacy,
    "bare": bare,
    "channels": channels,
}


def _setup_django() -> None:
    import django

    django.setup()


def measure(prepare: Prepare, request: dict[str, Any], client: Any) -> dict[str, Any]:
    """Publish some times and return what a call has cost here and at Redis."""
    call = prepare(request["recipients"], PERSIST if request["persist"] else 0)
    calls = request["calls"]
    for _ in range(max(3, calls // 10)):
        call("warm up".ljust(request["payload_bytes"]))
    own = redis_work.own_cost(client)
    before, cpu, durations = redis_work.snapshot(client), time.process_time(), []
    for number in range(calls):
        payload = f"{number:08d} ".ljust(request["payload_bytes"], "x")
        began = time.perf_counter()
        call(payload)
        durations.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    work = redis_work.difference(before, redis_work.snapshot(client))
    durations.sort()
    return {
        "median": durations[calls // 2],
        "p99": durations[int(calls * 0.99)],
        "cpu": cpu / calls,
        "redis_cpu": (work["cpu"] - own["cpu"]) / calls,
        "redis_seconds": (work["command_seconds"] - own["command_seconds"]) / calls,
        "redis_commands": (work["commands"] - own["commands"]) / calls,
        "new_connections": (work["connections"] - own["connections"]) / calls,
    }


def main(kind: str, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    import redis

    prepare = KINDS[kind]()
    client = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
    for line in requests:
        answers.write(json.dumps(measure(prepare, json.loads(line), client)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin, sys.stdout)
