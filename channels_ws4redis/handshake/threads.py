"""Threads for the project's own code and for look-ups, and who gets the next one that is free.

A thread takes the next job of the next in turn, not the job that has waited longest: a stranger who
opens hundreds of sockets, each of which needs a slow look-up, costs everybody else the time of one.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.store.process import this_process
from channels_ws4redis.store.rounds import Rounds


class Kind(enum.Enum):
    """What a job does."""

    #: It finds out who a session belongs to.
    LOOK_UP = enum.auto()
    #: It runs the project's own code.
    HOOK = enum.auto()


class Job:
    """One call that waits for a thread, or has one.

    :param pool: whose thread it is going to have.
    :param kind: what it does.
    :param whom: the one that it is done for.
    """

    __slots__ = ("_function", "_made", "_pool", "future", "kind", "whom")

    def __init__(self, pool: Pool, kind: Kind, whom: Hashable) -> None:
        self._pool = pool
        self.kind = kind
        self.whom = whom
        self.future: Future[Any] = Future()
        self._function: Callable[[], Any] | None = None
        self._made = time.monotonic()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Wait for a thread, and call the function in it.

        This is all that an event loop's ``run_in_executor`` asks of an executor. A future that is
        cancelled before its turn gives its place up.
        """
        self._function = function
        self.future.add_done_callback(self._on_done)
        self._pool.add(self)
        return self.future

    def _on_done(self, future: Future[Any]) -> None:
        self._function = None
        if future.cancelled():
            self._pool.discard(self)

    def run(self) -> None:
        """Call the function, in the thread that the job has been given."""
        function = self._function
        if function is None or not self.future.set_running_or_notify_cancel():
            return  # it was cancelled just now
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 # raised where the result is awaited
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def give_up(self) -> None:
        """End with `BusyError`, unless the job has a thread or has ended by now."""
        if self._pool.discard(self):
            seconds = time.monotonic() - self._made
            self.future.set_running_or_notify_cancel()
            self.future.set_exception(
                BusyError(
                    f"no thread became free for it in {seconds:.1f} s; make hooks and session "
                    "look-ups faster, or raise WS4REDIS_THREADS",
                    "threads",
                )
            )


class Turn(Protocol):
    """What waits in a fair queue."""

    @property
    def whom(self) -> Hashable:
        """The one that it is done for."""


T = TypeVar("T", bound=Turn)


class FairQueue(Generic[T]):
    """Jobs that wait. In each round everyone for whom jobs wait has one turn.

    Of the jobs for one of them, the oldest and the newest begin by turns. Behind one address there
    may be hundreds of strangers and a user who has just come. In the order of their coming all of
    them would wait for so long that none is served in time.

    :param limit: jobs that may have been taken and not ended.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # One who makes all threads hang leaves the others some.
        self._limit_of_one = max(1, limit * 3 // 4)
        self._waiting: Rounds[T] = Rounds()
        self._taken: Counter[Hashable] = Counter()
        self._newest = False

    def add(self, job: T) -> None:
        """Have a job wait."""
        self._waiting.add(job.whom, job)

    def discard(self, job: T) -> bool:
        """Have a job wait no longer; False if it has not been waiting."""
        return self._waiting.discard(job.whom, job)

    def take(self) -> T | None:
        """Return the next job; None if there is none that may begin."""
        if self._taken.total() >= self._limit:
            return None
        # Those who have reached their limit are few, as they share the threads.
        allowed = (each for each in self._waiting if self._taken[each[0]] < self._limit_of_one)
        whom, jobs = next(allowed, (None, None))
        if jobs is None:
            return None
        job = next(reversed(jobs) if self._newest else iter(jobs))
        self._newest = not self._newest
        self._waiting.take(whom, job)
        self._taken[whom] += 1
        return job

    def ended(self, job: T) -> None:
        """Note that a job that was taken has ended."""
        self._taken[job.whom] -= 1
        if not self._taken[job.whom]:
            del self._taken[job.whom]


class Pool:
    """Threads that share the jobs of a process, also of several event loops.

    Hooks get half of the threads at most: one that hangs must not keep users from logging in.

    :param size: threads.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="ws4redis")
        self._lock = threading.Lock()
        self._queues: dict[Kind, FairQueue[Job]] = {
            Kind.LOOK_UP: FairQueue(size),
            Kind.HOOK: FairQueue(max(1, size // 2)),
        }
        #: The kind in front is the next in turn.
        self._kinds = deque(self._queues)
        #: Threads that look for jobs or run one.
        self._working = 0

    def add(self, job: Job) -> None:
        """Have a job wait for its turn."""
        with self._lock:
            self._queues[job.kind].add(job)
            if self._working < self._size:
                self._threads.submit(self._work)
                self._working += 1

    def discard(self, job: Job) -> bool:
        """Have a job wait no longer; False if it has not been waiting."""
        with self._lock:
            return self._queues[job.kind].discard(job)

    def _work(self) -> None:
        job = self._next(None)
        while job is not None:
            job.run()
            job = self._next(job)

    def _next(self, ended: Job | None) -> Job | None:
        """Return the job that a thread does next, after one that has ended; None for none."""
        with self._lock:
            if ended is not None:
                self._queues[ended.kind].ended(ended)
            for kind in tuple(self._kinds):
                job = self._queues[kind].take()
                if job is not None:
                    self._kinds.remove(kind)
                    self._kinds.append(kind)
                    return job
            self._working -= 1
            return None


def threads() -> Pool:
    """Return the threads of this process, as many as WS4REDIS_THREADS says."""
    size = settings.WS4REDIS_THREADS
    return this_process().get(("threads", size), partial(Pool, size))
