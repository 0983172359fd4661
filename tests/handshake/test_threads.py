"""Who gets a thread next, and who gets none."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.utils.functional import SimpleLazyObject

from channels_ws4redis.handshake import deadlines
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.handshake.threads import Job, Kind, Pool, threads

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

PATIENCE, SOON = 10, 1
STRANGER, JOHN = "9.9.9.9", (User, 1)


class Work:
    """Jobs that tell in which order they have begun."""

    def __init__(self, size: int) -> None:
        self.pool = Pool(size)
        self.begun: list[object] = []
        self._may_end = threading.Event()
        self._all: list[Job] = []

    def ask(self, whom: object, kind: Kind = Kind.HOOK, name: object = None) -> Job:
        """Have a job wait that notes its name; that of whom it is for, unless it has another."""
        job = Job(self.pool, kind, whom)
        job.submit(lambda: self.begun.append(name or whom))
        self._all.append(job)
        return job

    def hold(self, whom: object, kind: Kind = Kind.HOOK) -> Job:
        """Have a job wait that holds its thread until `finish`; return when it has one, if soon."""
        begun = threading.Event()

        def run() -> None:
            begun.set()
            self._may_end.wait(PATIENCE)

        job = Job(self.pool, kind, whom)
        job.submit(run)
        self._all.append(job)
        begun.wait(SOON)
        return job

    def finish(self) -> list[object]:
        """Let all jobs end, and return the names of those that have begun, in their order."""
        self._may_end.set()
        for job in self._all:
            if not job.future.cancelled():
                job.future.exception(PATIENCE)
        return self.begun


@contextmanager
def busy(pool: Pool, kind: Kind, count: int, whom: str = "somebody") -> Iterator[None]:
    """Have so many threads of a pool run a job of this kind, each for somebody else."""
    begun, may_end = threading.Barrier(count + 1), threading.Event()

    def run() -> None:
        begun.wait(PATIENCE)
        may_end.wait(PATIENCE)

    jobs = [Job(pool, kind, (whom, number)) for number in range(count)]
    futures = [job.submit(run) for job in jobs]
    begun.wait(PATIENCE)
    try:
        yield
    finally:
        may_end.set()
        for future in futures:
            future.result(PATIENCE)


# Turns


def test_a_crowd_costs_the_others_one_job():
    """Whoever comes next is next but one in turn, however many jobs a stranger has waiting."""
    work = Work(2)  # of which hooks have one
    work.hold(STRANGER)
    for _ in range(300):
        work.ask(STRANGER)
    work.ask(JOHN)
    work.ask(JOHN)
    assert work.finish()[:5] == [STRANGER, JOHN, STRANGER, JOHN, STRANGER]
    assert len(work.begun) == 302


def test_who_comes_last_of_a_crowd():
    """The oldest and the newest job of one address begin by turns, and so no job waits for ever."""
    work = Work(2)
    work.hold(STRANGER)
    for number in range(1, 6):
        work.ask(STRANGER, name=number)
    assert work.finish() == [5, 1, 4, 2, 3]


def test_a_cancelled_job_never_begins():
    """It gives its place up at once, and leaves nothing behind."""
    work = Work(2)
    work.hold(STRANGER)
    jobs = [work.ask(STRANGER) for _ in range(100)]
    work.ask(JOHN)
    for job in jobs:
        assert job.future.cancel()
    (queue,) = (queue for kind, queue in work.pool._queues.items() if kind is Kind.HOOK)
    assert [whom for whom, _ in queue._waiting] == [JOHN]
    assert work.finish() == [JOHN]
    work.pool._threads.shutdown()  # a job is over a moment before its thread has noted that
    assert not queue._waiting
    assert not queue._taken


def test_a_job_that_has_begun_cannot_be_cancelled_nor_give_up():
    """Its result comes all the same."""
    work = Work(2)
    held = work.hold(STRANGER)
    while not held.future.running():
        pass
    held.give_up()
    assert not held.future.cancel()
    work.finish()
    assert held.future.exception() is None


def test_hooks_that_hang_leave_threads_to_look_ups():
    """Hooks get half of the threads; nobody is kept from logging in by the project's own code."""
    pool = Pool(8)
    with busy(pool, Kind.HOOK, 4):
        waiting = Job(pool, Kind.HOOK, JOHN)
        waiting.submit(lambda: None)
        with busy(pool, Kind.LOOK_UP, 4):
            assert not waiting.future.done()
    assert waiting.future.result(PATIENCE) is None


def test_look_ups_may_have_all_threads_and_give_way_to_hooks():
    """All threads look up while no hook waits; the first that is free then turns to the hook."""
    work = Work(2)
    look_ups = [work.hold(number, Kind.LOOK_UP) for number in range(2)]
    while not all(job.future.running() for job in look_ups):
        pass
    for number in range(4):
        work.ask(number, Kind.LOOK_UP, name="look-up")
    work.ask(JOHN, name="hook")
    assert "hook" in work.finish()[:3]


def test_one_who_hangs_leaves_threads_to_others():
    """Three quarters of the threads of a kind are the most that one gets."""
    pool = Pool(8)
    may_end, begun = threading.Event(), threading.Semaphore(0)

    def run() -> bool:
        begun.release()
        return may_end.wait(PATIENCE)

    jobs = [Job(pool, Kind.HOOK, STRANGER) for _ in range(20)]
    for job in jobs:
        job.submit(run)
    assert all(begun.acquire(timeout=PATIENCE) for _ in range(3))
    assert not begun.acquire(timeout=0.1)
    johns = Job(pool, Kind.HOOK, JOHN)
    assert johns.submit(lambda: "done").result(PATIENCE) == "done"
    may_end.set()
    for job in jobs:
        assert job.future.result(PATIENCE)


def test_exceptions_pass():
    """Also those that are meant for the interpreter do not end a thread."""
    pool = Pool(2)

    def fail(error):
        raise error

    for error in (ValueError("x"), SystemExit(3), KeyboardInterrupt()):
        job = Job(pool, Kind.HOOK, JOHN)
        assert job.submit(lambda error=error: fail(error)).exception(PATIENCE) is error
    assert Job(pool, Kind.HOOK, JOHN).submit(lambda: 7).result(PATIENCE) == 7


# Calls of a socket


def whom(user: object) -> object:
    """Return whom the calls of a socket are made for, once its user has been found."""
    calls = Calls({"client": [STRANGER, 4711]})
    calls.know(user)
    return calls.whom


def test_a_user_has_turns_of_the_own():
    """As soon as we know who it is, be it by a middleware."""
    john = User(pk=1)
    assert whom(john) == JOHN
    loaded = SimpleLazyObject(lambda: john)
    assert loaded.pk == 1
    assert whom(loaded) == JOHN
    assert Calls({"user": john}).whom == JOHN


def test_who_is_no_user_yet():
    """An anonymous visitor, a user who was not saved, and what a hook has put in its place."""
    for user in (None, AnonymousUser(), User(), "john"):
        assert whom(user) == STRANGER


def test_a_lazy_user_is_not_loaded():
    """That may ask the database, and would stop the event loop."""

    class Proxy:
        @property
        def __class__(self):
            raise AssertionError("loaded")

    assert whom(SimpleLazyObject(pytest.fail)) == STRANGER
    assert whom(Proxy()) == STRANGER


async def test_context_variables_reach_a_hook():
    """As they do with ``sync_to_async``."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")
    assert await Calls({}).run(variable.get) == "here"


@pytest.mark.parametrize("method", ["run", "look_up"])
async def test_a_handshake_does_not_wait_for_ever(settings, monkeypatch, method):
    """A thread that was not free in time ends the handshake; a socket that is open waits on."""
    settings.WS4REDIS_THREADS = 2
    monkeypatch.setattr(deadlines, "THREAD", 0.05)
    kind, count = {"run": (Kind.HOOK, 1), "look_up": (Kind.LOOK_UP, 2)}[method]
    ran = []
    patient = Calls({})
    patient.be_patient()
    with busy(threads(), kind, count):
        with pytest.raises(BusyError, match=r"no thread became free for it in 0\.\d s; .*THREADS"):
            await getattr(Calls({}), method)(ran.append, "too late")
        waiting = asyncio.ensure_future(getattr(patient, method)(ran.append, "in time"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    await waiting
    assert ran == ["in time"]


@pytest.mark.parametrize("method", ["run", "look_up", "hook"])
async def test_a_call_that_hangs_ends_the_handshake(settings, monkeypatch, method):
    """The error names it; its thread is lost, and others go on."""
    settings.WS4REDIS_THREADS = 4
    monkeypatch.setattr(deadlines, "CALL", 0.05)
    may_end = threading.Event()
    name = r"tests\.handshake\.test_threads\.test_a_call_that_.*\.hang has not ended in 0\.05 s"

    def hang() -> None:
        may_end.wait(PATIENCE)

    calls = Calls({})
    try:
        with pytest.raises(BusyError, match=name) as caught:
            await getattr(calls, method)(hang)
        assert caught.value.reason == "hooks that hang"
        assert await getattr(Calls({"client": [STRANGER, 1]}), method)(list) == []
    finally:
        may_end.set()
    await calls.ended()


async def test_an_asynchronous_hook_that_hangs_ends_the_handshake(monkeypatch):
    """It is cancelled; one whose own timeout is over has failed, and no more."""
    monkeypatch.setattr(deadlines, "CALL", 0.05)
    cancelled = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def impatient() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(BusyError, match="hang has not ended in"):
        await Calls({}).hook(hang)
    assert cancelled
    with pytest.raises(TimeoutError):
        await Calls({}).hook(impatient)


async def test_a_call_of_an_open_socket_may_take_long(monkeypatch):
    """As in legacy: what the client has sent may be worked on."""
    monkeypatch.setattr(deadlines, "CALL", 0.01)
    calls, may_end = Calls({}), threading.Event()
    calls.be_patient()
    asyncio.get_running_loop().call_later(0.1, may_end.set)
    assert await calls.run(may_end.wait, PATIENCE)


async def test_the_time_for_waiting_is_that_of_the_whole_handshake(settings, monkeypatch):
    """Whatever has taken it; a thread that is free is had in any case."""
    settings.WS4REDIS_THREADS = 2
    monkeypatch.setattr(deadlines, "HANDSHAKE", 0.5)
    calls = Calls({})
    await calls.run(time.sleep, 0.2)
    with busy(threads(), Kind.HOOK, 1):
        for _ in range(2):
            with pytest.raises(BusyError, match="no thread became free"):
                await calls.run(str)
    assert 0.5 < calls.age < SOON
    assert await calls.run(str) == ""
    assert await calls.run(str) == ""


async def test_who_has_gone_leaves_the_queue(settings):
    """A call that nobody waits for any more never begins; one that runs is over before the next."""
    settings.WS4REDIS_THREADS = 2
    ran = []
    with busy(threads(), Kind.HOOK, 1):
        waiting = asyncio.ensure_future(Calls({}).run(ran.append, "gone"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await Calls({}).run(list) == []
    assert ran == []


async def test_calls_of_one_socket_never_overlap(settings):
    """What is called next waits for a thread that runs on although its client has gone."""
    settings.WS4REDIS_THREADS = 8
    calls, begun, may_end, order = Calls({}), threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        may_end.wait(PATIENCE)
        order.append("slow")

    waiting = asyncio.ensure_future(calls.run(slow))
    await asyncio.to_thread(begun.wait, PATIENCE)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    following = asyncio.ensure_future(calls.run(order.append, "next"))
    await asyncio.sleep(0.05)
    assert order == []
    may_end.set()
    await following
    assert order == ["slow", "next"]


def test_number_of_threads(settings):
    """It is a setting, which is read when the threads are needed."""
    settings.WS4REDIS_THREADS = 2
    two = threads()
    assert threads() is two
    settings.WS4REDIS_THREADS = 3
    assert threads() is not two


def _look_up_in_child(answers) -> None:
    answers.put(asyncio.run(Calls({}).look_up(int, "7")))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """Those of its parent do not exist there."""
    assert asyncio.run(Calls({}).look_up(int, "7")) == 7
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_look_up_in_child, args=[answers])
    child.start()
    assert answers.get(timeout=PATIENCE) == 7
    child.join(PATIENCE)
    assert child.exitcode == 0
