"""Which groups of the channel layer a process is in: many are joined or left at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import redis

from channels_ws4redis.fanout.backends import Feed
from channels_ws4redis.fanout.group import Group
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.protocol.track import Track
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.fairness import let_others
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: Of each group that could not be joined, why.
Failures = Mapping[str, Exception]

Work = Callable[[Sequence[Group]], Coroutine[Any, Any, Failures]]


class Memberships:
    """Joins and leaves the groups of a fan-out.

    Each group is joined or left by one task at a time, which nobody cancels: these never overtake
    each other, and all who want the same wait for the same task. What is wanted in one turn of the
    event loop is done by one task, in one round trip. Somebody with thousands of groups joins them
    part by part. In between others have their turns, and the messages that have arrived by then do
    not wait for the confirmations of the rest.

    :param groups: all groups, by channel; those that have been left are taken out.
    """

    def __init__(self, feed: Feed, groups: MutableMapping[str, Group]) -> None:
        self._feed = feed
        self._groups = groups
        #: By work, the task for it that has not begun, and its groups.
        self._next: dict[Work, tuple[asyncio.Task[Failures], list[Group]]] = {}
        #: Those that have lost their last socket, and the task that leaves them.
        self._empty: dict[Group, None] = {}
        self._leaving: asyncio.Task[None] | None = None

    async def join(self, groups: Sequence[Group]) -> None:
        """Join groups, those without any socket left out.

        :raises redis.exceptions.ConnectionError: if the channel layer cannot be reached.
        :raises redis.exceptions.RedisError: if Redis refuses one of the groups.
        """
        while due := [group for group in groups if group.sockets and not group.joined]:
            failures = await asyncio.shield(self._go_on(due, self._join))
            for group in due:
                if group.channel in failures:
                    raise failures[group.channel]
            await let_others(1)

    def leave(self, groups: Sequence[Group]) -> asyncio.Task[None]:
        """Leave those of the groups that are still without any socket when it is their turn.

        :returns: the task that does so, and does the same for all who ask meanwhile.
        """
        self._empty |= dict.fromkeys(groups)
        if self._leaving is None or self._leaving.done():
            self._leaving = this_loop().spawn(self._leave_empty(), "ws4redis-leave")
        return self._leaving

    async def _leave_empty(self) -> None:
        while due := [each for each in self._empty if not each.sockets and self._knows(each)]:
            self._empty = dict.fromkeys(due)
            await asyncio.wait([self._go_on(due, self._leave)])
            await let_others(1)
        self._empty.clear()

    def _knows(self, group: Group) -> bool:
        return self._groups.get(group.channel) is group

    def _go_on(self, due: Sequence[Group], work: Work) -> asyncio.Task[Failures]:
        """Begin with those for which nothing is done; if there are none, return what is done."""
        free = [group for group in due if group.moving is None][: self._feed.at_once]
        if not free:
            assert due[0].moving is not None
            return due[0].moving
        task, groups = self._next.get(work, (None, []))
        if task is None or task.done() or len(groups) + len(free) > self._feed.at_once:
            groups = []
            task = this_loop().spawn(self._begin(work, groups), "ws4redis-membership")
            task.add_done_callback(partial(_settle, groups))
            self._next[work] = task, groups
        groups += free
        for group in free:
            # Now and not in the first step of the task: somebody may come in between, and would
            # take the group that is about to be left for one that is joined.
            group.moving, group.joined = task, False
        return task

    async def _begin(self, work: Work, groups: list[Group]) -> Failures:
        self._next.pop(work, None)  # whoever comes now has another task
        return await work(groups)

    async def _join(self, groups: Sequence[Group]) -> Failures:
        names = [group.channel for group in groups]
        failures: Failures
        try:
            failures = await self._feed.join(names)
        except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
            failures = dict.fromkeys(names, error)
        for group in groups:
            group.joined = group.channel not in failures
        return {name: _as_redis_error(error) for name, error in failures.items()}

    async def _leave(self, groups: Sequence[Group]) -> Failures:
        # They stay known until they have been left: a layer that is asked to join meanwhile may do
        # that first, and leave then.
        try:
            # Also if joining failed: the layer may have taken note of us all the same.
            await self._feed.leave([group.channel for group in groups])
        except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
            logger.debug("Could not leave %s: %s", shown(groups[0].channel), error)
        for group in groups:
            if group.sockets:
                group.track = Track()  # somebody came back meanwhile, and waits to join anew
            elif self._knows(group):
                del self._groups[group.channel]
        return {}


def _as_redis_error(error: Exception) -> Exception:
    if isinstance(error, UNREACHABLE):
        return redis.exceptions.ConnectionError(str(error))
    return error


def _settle(groups: Sequence[Group], task: asyncio.Task[Failures]) -> None:
    for group in groups:
        group.moving = None
