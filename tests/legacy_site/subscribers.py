"""Subscribers and hooks as public projects have them, each pattern with its use of the ORM.

They write what they see into Redis lists, where the tests read it.
"""

# ruff: noqa: RUF012 # written as legacy projects write them

import json
import threading

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.utils.functional import SimpleLazyObject
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import SELF, RedisMessage, RedisStore
from ws4redis.subscriber import RedisSubscriber


class Presence(RedisSubscriber):
    """Counts who is online, in Redis and with the database, and says goodbye."""

    def __init__(self, connection):
        super().__init__(connection)
        self.request = None
        self._note("init", users=get_user_model().objects.count())

    def _note(self, hook, **details):
        thread = threading.current_thread() is not threading.main_thread()
        self._connection.rpush("notes", json.dumps({"hook": hook, "thread": thread, **details}))

    def set_pubsub_channels(self, request, channels):
        self.request = request
        super().set_pubsub_channels(request, channels)
        if request.user.is_authenticated and request.user.get_username() == "mary":
            raise PermissionDenied("mary has been banned")
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        self._connection.hincrby("online", facility, 1)
        self._note("set_pubsub_channels", channels=sorted(channels), users=[
            user.get_username() for user in get_user_model().objects.order_by("username")
        ])  # fmt: skip

    def publish_message(self, message, expire=None):
        self._note("publish_message", message=message.decode(), type=type(message).__name__)
        if message == b"drop":
            return
        if message == b"ask":
            super().publish_message(RedisMessage("answer"), expire)
            return
        super().publish_message(message, expire)

    def release(self):
        facility = self.request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        self._connection.hincrby("online", facility, -1)
        gone = RedisPublisher(facility="gone", broadcast=True)
        gone.publish_message(RedisMessage(f"{facility} {get_user_model().objects.count()}"))
        self._note("release", subscribed=self._subscription.subscribed)
        super().release()


class Greeting(RedisSubscriber):
    """Tells everybody, the newcomer too, how many there are. Counting was PUBSUB NUMSUB once."""

    def _tell(self, word):
        publisher = RedisPublisher(facility="room", broadcast=True)
        publisher.publish_message(RedisMessage(f"{publisher.count_listeners()} {word}"), 0)

    def set_pubsub_channels(self, request, channels):
        super().set_pubsub_channels(request, channels)
        self._tell("here")

    def release(self):
        super().release()
        self._tell("left")


class StockBody(RedisSubscriber):
    """Repeats the body of the original and adds a channel of its own."""

    subscription_channels = [*RedisSubscriber.subscription_channels, "subscribe-server"]
    publish_channels = [*RedisSubscriber.publish_channels, "publish-server"]

    def set_pubsub_channels(self, request, channels):
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        audience = {
            "users": ("publish-user" in channels and [SELF]) or [],
            "groups": ("publish-group" in channels and [SELF]) or [],
            "sessions": ("publish-session" in channels and [SELF]) or [],
            "broadcast": "publish-broadcast" in channels,
        }
        self._publishers = set()
        for key in self._get_message_channels(request=request, facility=facility, **audience):
            self._publishers.add(key)
        if "publish-server" in channels:
            self._publishers.add(f"{self.get_prefix()}server:{facility}")
        audience = {
            "users": ("subscribe-user" in channels and [SELF]) or [],
            "groups": ("subscribe-group" in channels and [SELF]) or [],
            "sessions": ("subscribe-session" in channels and [SELF]) or [],
            "broadcast": "subscribe-broadcast" in channels,
        }
        self._subscription = self._connection.pubsub()
        for key in self._get_message_channels(request=request, facility=facility, **audience):
            self._subscription.subscribe(key)
        if "subscribe-server" in channels:
            self._subscription.subscribe(f"{self.get_prefix()}server:{facility}")


class OnStore(RedisStore):
    """Extends the store, as the original's manual says, with all that the server there calls."""

    subscription_channels = [*RedisSubscriber.subscription_channels]
    publish_channels = [*RedisSubscriber.publish_channels]

    def __init__(self, connection):
        self._subscription = None
        super().__init__(connection)

    def parse_response(self):
        return self._subscription.parse_response()

    def set_pubsub_channels(self, request, channels):
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        audience = {"broadcast": "publish-broadcast" in channels}
        self._publishers = set()
        for key in self._get_message_channels(request=request, facility=facility, **audience):
            self._publishers.add(key)
        audience = {
            "users": ("subscribe-user" in channels and [SELF]) or [],
            "broadcast": "subscribe-broadcast" in channels,
        }
        self._subscription = self._connection.pubsub()
        for key in self._get_message_channels(request=request, facility=facility, **audience):
            self._subscription.subscribe(key)

    def send_persisted_messages(self, websocket):
        for channel in self._subscription.channels:
            message = self._connection.get(channel)
            if message:
                websocket.send(message)

    def get_file_descriptor(self):
        return self._subscription.connection and self._subscription.connection._sock.fileno()

    def release(self):
        if self._subscription and self._subscription.subscribed:
            self._subscription.unsubscribe()
            self._subscription.reset()
        self._connection.rpush("notes", json.dumps({"hook": "release"}))


class Listener:
    """Extends nothing, and only listens."""

    def __init__(self, connection):
        self.connection = connection

    def set_pubsub_channels(self, request, channels):
        self._subscription.subscribe("demo:broadcast:listener")
        self._publishers = set()


class OwnPubSub(RedisSubscriber):
    """Keeps redis-py's own object at hand."""

    def set_pubsub_channels(self, request, channels):
        pubsub = self._subscription = self._connection.pubsub()
        pubsub.subscribe("demo:broadcast:own", b"demo:broadcast:bytes")


class LabStore(RedisStore):
    """A mixin with one more audience."""

    def __init__(self, connection):
        super().__init__(connection)

    def _get_message_channels(self, request=None, facility="{facility}", server=False, **audience):
        channels = super()._get_message_channels(request=request, facility=facility, **audience)
        if server:
            channels.append(f"{self.get_prefix()}server:{facility}")
        return channels


class LabPublisher(RedisPublisher, LabStore):
    """A publisher with the audience of the mixin."""


class LabSubscriber(RedisSubscriber, LabStore):
    """A subscriber to the audience of the mixin."""

    subscription_channels = [*RedisSubscriber.subscription_channels, "subscribe-server"]

    def set_pubsub_channels(self, request, channels):
        super().set_pubsub_channels(request, channels)
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        names = self._get_message_channels(facility=facility, server="subscribe-server" in channels)
        self._subscription.subscribe(*names)


class History(RedisSubscriber):
    """Sends a list from Redis in place of the stored message, under the name of today."""

    def send_persisted_messages(self, websocket):
        for message in self._connection.lrange("history", 0, -1):
            websocket.send(message)
        websocket.send("that was all")


class MisspeltHistory(RedisSubscriber):
    """Sends a list from Redis in place of the stored message, under the old name."""

    def send_persited_messages(self, websocket):
        for message in self._connection.lrange("history", 0, -1):
            websocket.send(message)


class NoReplay(RedisSubscriber):
    """Wants no stored messages."""

    def send_persited_messages(self, websocket):
        return


class SlowReplay(RedisSubscriber):
    """Takes so long that messages arrive meanwhile, and calls the original."""

    def send_persisted_messages(self, websocket):
        self._connection.rpush("replaying", "now")
        self._connection.blpop("go", timeout=10)
        super().send_persisted_messages(websocket)


class Rooms(RedisSubscriber):
    """Enters and leaves rooms when the client says so."""

    def publish_message(self, message, expire=None):
        verb, _, room = message.decode().partition(" ")
        name = f"{self.get_prefix()}broadcast:{room}"
        if verb == "enter":
            self._subscription.subscribe(name)
            # Everything that is published from here on arrives.
            RedisPublisher(facility=room, broadcast=True).publish_message(f"welcome to {room}")
        elif verb == "leave":
            self._subscription.unsubscribe(name)
            RedisPublisher(facility=room, broadcast=True).publish_message(f"left {room}")
        elif verb == "list":
            names = [name.decode().split(":")[-1] for name in self._subscription.channels]
            self._publishers = {f"{self.get_prefix()}broadcast:lists"}
            super().publish_message(RedisMessage(",".join(names)))
        elif verb == "reset":
            self._subscription.reset()
            RedisPublisher(facility="lists", broadcast=True).publish_message(
                f"subscribed: {self._subscription.subscribed}"
            )


class BadRelease(RedisSubscriber):
    """Fails when the socket is gone."""

    def release(self):
        self._connection.rpush("notes", "release")
        raise RuntimeError("cannot let go")


# Hooks in settings


def allow_database(request, channels):
    """Ask the database, and grant what was not asked for."""
    users = [user.get_username() for user in get_user_model().objects.all()]
    granted = {"subscribe-broadcast"}
    if request.user.get_username() in users:
        granted.add("subscribe-user")
    return granted


async def allow_async(request, channels):
    """Grant what was asked for, asynchronously."""
    return tuple(channel for channel in channels if channel.startswith("subscribe-"))


def allow_generator(request, channels):
    """Grant by a generator, which runs queries while it is consumed."""
    for channel in channels:
        if get_user_model().objects.exists():
            yield channel


def allow_none(request, channels):
    """Forget the return statement."""


def allow_failing(request, channels):
    """Fail."""
    raise LookupError("no such thing")


def allow_nobody(request, channels):
    """Refuse."""
    raise PermissionDenied("go away")


def allow_looking(request, channels):
    """Look at all of the request that hooks of legacy look at."""
    seen = {
        "GET": sorted(request.GET),
        "COOKIES": sorted(request.COOKIES),
        "META": request.META["PATH_INFO"],
        "environ": request.environ["PATH_INFO"],
        "path": request.path,
        "path_info": request.path_info,
        "method": request.method,
        "agent": request.headers["User-Agent"],
        "session": request.session.get("room"),
        "user": request.user.get_username(),
        "superuser": request.user.is_superuser,
        "host": request.get_host().partition(":")[0],
        "uri": request.build_absolute_uri().partition("//")[0],
        "secure": request.is_secure(),
        "channels": channels,
    }
    RedisPublisher(facility="seen", broadcast=True).publish_message(json.dumps(seen))
    return channels


def process_token(request):
    """Take the user from a token in the query string, lazily as the original takes the session."""
    token = request.GET.get("token", "")
    if token == "denied":
        raise PermissionDenied("bad token")
    request.session = None
    request.user = SimpleLazyObject(lambda: get_user_model().objects.get(username=token))
    if token == "broken":
        request.user.get_username()


async def process_async(request):
    """Take the user from a token, asynchronously."""
    request.user = await get_user_model().objects.aget(username=request.GET["token"])


def wait_to_be_told(request, channels):
    """Say that it waits, and wait until it is told to go on."""
    if "slow" in request.GET:
        connection = RedisPublisher(facility="room", broadcast=True)._connection
        connection.rpush("waiting", "one")
        connection.blpop("go", timeout=10)
    return channels
