"""The object that joins groups for all sockets of a process and hands messages to them.

A hand-written consumer owns a channel of the layer for every socket; there every delivery costs a
queue, a decoding and two task switches. Here one channel serves all sockets of an event loop.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import redis
from channels.layers import InMemoryChannelLayer

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.publishing import fanout_loops
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.layers import (
    FANOUT_PREFIX,
    JOIN_TIMEOUT,
    RELINKED_TYPE,
    RedisChannelLayer,
    group_name,
)
from channels_ws4redis.protocol.messages import EVENT_TYPE, Event, is_heartbeat, json_frame
from channels_ws4redis.protocol.track import Track
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.commands import Snapshot, parse_snapshot, read_command
from channels_ws4redis.store.fairness import Turn
from channels_ws4redis.store.runner import get_link

logger = logging.getLogger(__name__)

#: ``type`` of the message that a fan-out sends through the layer to itself.
PROBE_TYPE = "ws4redis.probe"

#: Seconds between heartbeats to raw clients. Legacy promises "at least every four seconds".
HEARTBEAT_INTERVAL = 3.5

#: Seconds between pings to clients of the package's own protocol.
PING_INTERVAL = 20.0

#: Seconds between tests of a layer that does not tell when its link is lost, and the seconds that
#: a test may take.
PROBE_INTERVAL, PROBE_TIMEOUT = 2.0, 3.0

#: Seconds after which a test is repeated for the first time; each time it takes twice as long.
PROBE_PAUSE = 0.05

#: Seconds that a layer which does not keep the order gets to deliver what seems to be missing.
GRACE = 0.2

#: Seconds between comparisons of where groups and histories stand, on layers that drop messages
#: without telling, and how many groups are compared each time.
AUDIT_INTERVAL = 5.0
AUDITED_AT_ONCE = 200

#: Seconds between joining all groups again. Layers forget members after ``group_expiry``, a day.
REJOIN_INTERVAL = 6 * 3600.0

#: Channels whose history is read in one pipeline.
READ_AT_ONCE = 500

#: Seconds between attempts to read the history while Redis is away.
RETRY_INTERVAL = 0.3


class Group:
    """A channel-layer group and the local sockets in it."""

    def __init__(self, channel: str, name: str) -> None:
        self.channel = channel
        #: Its name in the layer.
        self.name = name
        self.recipients: dict[Recipient, None] = {}
        self.track = Track()
        self.joined = False
        #: Held while joining or leaving, so that these never overtake each other.
        self.lock = asyncio.Lock()


class FanOut:
    """Receives from the channel layer on one channel and delivers to every local socket."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._tells = isinstance(layer, RedisChannelLayer)
        self._waits = not isinstance(layer, RedisChannelLayer | InMemoryChannelLayer)
        self._channel = ""
        self._token = uuid.uuid4().hex
        self._groups: dict[str, Group] = {}
        #: The names of the channels that each socket listens on.
        self._recipients: dict[Recipient, tuple[str, ...]] = {}
        #: Readings that have been asked for and not been sent, by channel.
        self._unread: dict[str, asyncio.Future[Snapshot]] = {}
        self._reading = False
        self._probes: dict[str, asyncio.Future[None]] = {}
        self._opening: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._catching_up = False
        self._relinked = False
        self._doubtful = False

    # Sockets

    async def join(self, recipient: Recipient, channels: Iterable[str]) -> None:
        """Let a socket hear the events of channels; done once nothing can be missed any more.

        :raises redis.exceptions.ConnectionError: if the channel layer cannot be reached.
        """
        self._recipients.setdefault(recipient, ())
        await self._open()
        for channel in channels:
            await self._join(recipient, channel)

    async def _join(self, recipient: Recipient, channel: str) -> None:
        group = self._groups.get(channel)
        if group is None:
            group = self._groups[channel] = Group(channel, group_name(self._layer, channel))
        group.recipients[recipient] = None
        own = self._recipients.get(recipient, ())
        if channel not in own:
            self._recipients[recipient] = (*own, channel)
        if group.joined:
            return
        async with group.lock:
            if not group.joined:
                group.track = Track()
                try:
                    await self._group_add(group)
                except UNREACHABLE as error:
                    raise redis.exceptions.ConnectionError(str(error)) from error
                group.joined = True

    async def _group_add(self, group: Group) -> None:
        await self._layer.group_add(group.name, self._channel)
        if self._waits:
            # The layer has only sent its request. Once our own message comes back through the
            # group, everything that is published from now on will.
            await self._probe(group.name)

    def leave(self, recipient: Recipient, channels: Iterable[str] | None = None) -> None:
        """Forget a socket, or only some of its channels; the layer is told in the background."""
        own = self._recipients.get(recipient)
        if own is None:
            return
        gone = own if channels is None else tuple(channels)
        for name in gone:
            group = self._groups.get(name)
            if group is not None and group.recipients.pop(recipient, self) is None:
                self._leave_if_empty(group)
        if channels is None:
            del self._recipients[recipient]
            self._close_if_idle()
        else:
            self._recipients[recipient] = tuple(name for name in own if name not in gone)

    def _leave_if_empty(self, group: Group) -> None:
        if not group.recipients:
            self._spawn(self._group_discard(group))

    async def _group_discard(self, group: Group) -> None:
        async with group.lock:
            if group.recipients or self._groups.get(group.channel) is not group:
                return  # somebody came back
            # It stays known until it has been left: a layer that is asked to join meanwhile may do
            # that first, and leave then.
            group.joined = False
            try:
                # Also if joining failed: the layer may have taken note of us all the same.
                await self._layer.group_discard(group.name, self._channel)
            except UNREACHABLE as error:
                logger.debug("Could not leave group %s: %s", group.name, error)
            if not group.recipients:
                del self._groups[group.channel]

    # Reading the history

    async def read(self, channels: Iterable[str]) -> list[Snapshot]:
        """Return what is stored of channels, all read after this call.

        Sockets that ask while another reading is under way share the next one: five hundred that
        connect at once cost a handful of round trips, and one decoding of each message.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        snapshots = await self._read(channels)
        for snapshot in snapshots:
            if isinstance(snapshot, BaseException):
                raise snapshot
        return snapshots  # type: ignore[return-value] # no exception among them

    async def _read(self, channels: Iterable[str]) -> list[Snapshot | BaseException]:
        loop = asyncio.get_running_loop()
        futures = []
        for name in channels:
            if name not in self._unread:
                self._unread[name] = loop.create_future()
            futures.append(self._unread[name])
        if not futures:
            return []
        if not self._reading:
            self._reading = True
            self._spawn(self._read_all())
        # wait(), as a reading is not over when one of those who asked for it is cancelled.
        await asyncio.wait(set(futures))
        return [future.exception() or future.result() for future in futures]

    async def _read_all(self) -> None:
        due: dict[str, asyncio.Future[Snapshot]] = {}
        try:
            while self._unread:
                due = {name: self._unread.pop(name) for name in list(self._unread)[:READ_AT_ONCE]}
                for name, outcome in zip(due, await self._read_now(due), strict=True):
                    if isinstance(outcome, Exception):
                        due[name].set_exception(outcome)
                        due[name].exception()  # whoever asked may be gone
                    else:
                        due[name].set_result(outcome)
                        self._note(outcome)
        finally:
            self._reading = False
            for future in [*due.values(), *self._unread.values()]:
                future.cancel()  # those that are not done, if this task was cancelled
            self._unread = {}

    async def _read_now(self, names: Iterable[str]) -> list[Snapshot | Exception]:
        commands = []
        for name in names:
            group = self._groups.get(name)
            commands.append(read_command(name, group.track.position if group else None))
        try:
            replies = await (await get_link()).run(commands)
        except (redis.exceptions.RedisError, OSError) as error:
            return [error] * len(commands)
        return [
            reply if isinstance(reply, Exception) else parse_snapshot(name, reply)
            for name, reply in zip(names, replies, strict=True)
        ]

    def _note(self, snapshot: Snapshot) -> None:
        """Compare where the history stands with where the group's sockets stand."""
        group = self._groups.get(snapshot.channel)
        if group is None:
            return
        track = group.track
        track.start(snapshot.position)
        if track.position is not None and track.position.epoch != snapshot.position.epoch:
            self._suspect_later()  # the history has begun anew, and nothing else may tell
        if track.behind:
            self._catch_up_soon()

    # Life

    async def _open(self) -> None:
        """Open the channel and start receiving, once for all who connect at the same time."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._start())
        try:
            await asyncio.shield(self._opening)
        except UNREACHABLE as error:
            self._opening = None
            raise redis.exceptions.ConnectionError(str(error)) from error

    async def _start(self) -> None:
        fanout_loops[self._layer] = asyncio.get_running_loop()
        if self._tells:
            self._channel = await self._layer.new_fanout(self._take)
        else:
            self._channel = await self._layer.new_channel(FANOUT_PREFIX)
            self._spawn(self._receive())
        self._spawn(self._keep_time())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close_if_idle(self) -> None:
        if not self._recipients:
            _forget(self)
            closing = asyncio.ensure_future(self._close())
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)

    async def _close(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        for group in list(self._groups.values()):
            await self._group_discard(group)
        if self._tells and self._channel:
            await self._layer.close_channel(self._channel)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Receiving

    async def _receive(self) -> None:
        """Receive from a layer that has queues."""
        turn = Turn()
        while True:
            await turn.end_if_due()  # receiving does not wait while there are messages
            try:
                message = await self._layer.receive(self._channel)
            except redis.exceptions.TimeoutError:
                continue  # channels_redis.core on redis-py >= 8: an idle channel times out
            except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
                logger.warning("Receiving from the channel layer failed: %s", error)
                await asyncio.sleep(RETRY_INTERVAL)
                self._suspect_all()
                continue
            payload = message.get("payload")
            turn.spend(len(payload) if isinstance(payload, bytes) else 0)
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        try:
            self._dispatch(message)
        except Exception:
            logger.exception("A message of the channel layer could not be delivered")

    def _dispatch(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == EVENT_TYPE:
            event = message.get("event") or Event(
                message["channel"],
                message["payload"],
                message["epoch"],
                message["offset"],
                message["sender"],
            )
            group = self._groups.get(event.channel)
            if group is not None:
                self._deliver(group, event)
        elif kind == PROBE_TYPE:
            future = self._probes.get(message["token"])
            if future is not None and not future.done():
                future.set_result(None)
        elif kind == RELINKED_TYPE:
            self._relinked = True
            self._suspect_all()

    def _deliver(self, group: Group, event: Event) -> None:
        if not event.offset and is_heartbeat(event.payload):
            return  # a foreign program's; each socket has its own
        self._pass_on(group, group.track.receive(event))
        if group.track.behind:
            self._catch_up_soon()

    def _pass_on(self, group: Group, events: Iterable[Event]) -> None:
        for event in events:
            for recipient in list(group.recipients):
                recipient.deliver(event)

    # Making good what was missed

    def _suspect_all(self) -> None:
        self._doubtful = False
        for group in self._groups.values():
            group.track.suspect()
        self._catch_up_soon()

    def _suspect_later(self) -> None:
        """Suspect all groups once what has already arrived has been delivered."""
        if not self._doubtful:
            self._doubtful = True
            self._spawn(self._remind())

    async def _remind(self) -> None:
        try:
            await self._layer.send(self._channel, {"type": RELINKED_TYPE})
        except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
            logger.debug("There is no room for a message to ourselves: %s", error)
            self._suspect_all()

    def _catch_up_soon(self) -> None:
        if not self._catching_up:
            self._catching_up = True
            self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        """Read the history of every channel that is behind, until none is."""
        try:
            if self._waits:
                await asyncio.sleep(GRACE)
                for group in self._groups.values():
                    self._pass_on(group, group.track.late())
            if self._relinked:
                self._relinked = False
                await (await get_link()).renew()  # what has ended one connection may end another
            while behind := [group for group in self._groups.values() if group.track.behind]:
                failure: BaseException | None = None
                for snapshot in await self._read([group.channel for group in behind]):
                    if isinstance(snapshot, BaseException):
                        failure = snapshot
                    else:
                        self._recover(snapshot)
                if failure is not None:
                    logger.debug("Cannot read the history yet: %s", failure)
                    await asyncio.sleep(RETRY_INTERVAL)
        finally:
            self._catching_up = False

    def _recover(self, snapshot: Snapshot) -> None:
        group = self._groups.get(snapshot.channel)
        if group is None or not group.track.behind:
            return
        self._pass_on(group, group.track.ended(snapshot))
        recovery = group.track.recover(snapshot)
        if not recovery.complete:
            logger.warning("Messages on %s could not be recovered", snapshot.channel)
        for recipient in list(group.recipients):
            recipient.catch_up(snapshot, recovery)

    async def _probe(self, group: str | None) -> None:
        """Send a message to ourselves, through a group or directly, until one comes back.

        The first may be lost: it may overtake the layer's request to join, which goes to Redis on
        another connection.

        :raises redis.exceptions.ConnectionError: if it does not arrive in time.
        """
        token = f"{self._token}.{uuid.uuid4().hex}"
        future = self._probes[token] = asyncio.get_running_loop().create_future()
        message = {"type": PROBE_TYPE, "token": token}
        try:
            async with asyncio.timeout(PROBE_TIMEOUT if group is None else JOIN_TIMEOUT):
                pause = PROBE_PAUSE
                while not future.done():
                    if group is None:
                        await self._layer.send(self._channel, message)
                    else:
                        await self._layer.group_send(group, message)
                    await asyncio.wait([future], timeout=pause)
                    pause *= 2
        except TimeoutError:
            raise redis.exceptions.ConnectionError(
                "A message to ourselves did not come back through the channel layer."
            ) from None
        finally:
            del self._probes[token]

    # Time

    async def _keep_time(self) -> None:
        """Send heartbeats and pings, and watch the layer: one timer for all sockets."""
        clock = asyncio.get_running_loop().time
        every: dict[Callable[[], None], float] = {
            self._send_heartbeats: HEARTBEAT_INTERVAL,
            self._send_pings: PING_INTERVAL,
            self._rejoin: REJOIN_INTERVAL,
        }
        if self._waits:
            every[self._test_link] = PROBE_INTERVAL
        if not self._tells:
            every[self._audit] = AUDIT_INTERVAL
        due = {action: clock() + interval for action, interval in every.items()}
        while True:
            await asyncio.sleep(max(0.0, min(due.values()) - clock()))
            for action, interval in every.items():
                if due[action] <= clock():
                    due[action] = clock() + interval
                    action()

    def _send_heartbeats(self) -> None:
        heartbeat = settings.WS4REDIS_HEARTBEAT
        if heartbeat is not None:
            frame = {"type": "websocket.send", "text": heartbeat}
            for recipient in list(self._recipients):
                if recipient.labels is None and recipient.live:
                    recipient.outbox.put(frame)

    def _send_pings(self) -> None:
        frame = json_frame({"type": "ping"})
        for recipient in list(self._recipients):
            if recipient.labels is not None and recipient.live:
                recipient.outbox.put(frame)

    def _rejoin(self) -> None:
        self._spawn(self._join_again())

    async def _join_again(self) -> None:
        for group in list(self._groups.values()):
            async with group.lock:
                if group.joined:
                    await self._layer.group_add(group.name, self._channel)

    def _test_link(self) -> None:
        if not any(task.get_name() == PROBE_TYPE for task in self._tasks):
            self._spawn(self._watch_link())

    def _audit(self) -> None:
        self._spawn(self._look_for_drops())

    async def _look_for_drops(self) -> None:
        """Find the groups that have missed a message, of which only the next one would tell.

        Stock layers drop what finds no room in a channel, without a word.
        """
        # Another part of the groups each time.
        names = list(self._groups)[:AUDITED_AT_ONCE]
        for name in names:
            self._groups[name] = self._groups.pop(name)
        snapshots = await self._read(names)
        await asyncio.sleep(GRACE)  # for what is on its way
        for snapshot in snapshots:
            if isinstance(snapshot, BaseException):
                continue
            group = self._groups.get(snapshot.channel)
            if group is not None and group.track.lags(snapshot.position):
                group.track.suspect()
                self._catch_up_soon()

    async def _watch_link(self) -> None:
        """Find out whether the layer still delivers; if it did not, make good what was missed."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name(PROBE_TYPE)
        lost = False
        while True:
            try:
                await self._probe(None)
                if lost:
                    await self._join_again()
                    self._suspect_all()
                return
            except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
                if not lost:
                    logger.warning("The channel layer does not deliver: %s", error)
                lost = True
                await asyncio.sleep(RETRY_INTERVAL)


_fanouts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, FanOut]] = WeakKeyDictionary()

#: Keeps fan-outs that are closing from being collected.
_closing: set[asyncio.Future[None]] = set()


def get_fanout(layer: Any) -> FanOut:
    """Return the running event loop's fan-out for a channel layer."""
    fanouts = _fanouts.setdefault(asyncio.get_running_loop(), {})
    fanout = fanouts.get(id(layer))
    if fanout is None:
        fanout = fanouts[id(layer)] = FanOut(layer)
    return fanout


def _forget(fanout: FanOut) -> None:
    fanouts = _fanouts.get(asyncio.get_running_loop(), {})
    for key, known in list(fanouts.items()):
        if known is fanout:
            del fanouts[key]
