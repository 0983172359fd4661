"""Running the project's own code: settings that name a callable, and overridden methods."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextvars import Context, copy_context
from typing import Any

from asgiref.sync import AsyncToSync, iscoroutinefunction
from channels.db import DatabaseSyncToAsync
from channels.exceptions import DenyConnection
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.utils.module_loading import import_string

from channels_ws4redis.handshake import deadlines
from channels_ws4redis.handshake.addresses import address_of
from channels_ws4redis.handshake.derived import Derived
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.handshake.requests import unwrapped
from channels_ws4redis.handshake.threads import Job, Kind, threads
from channels_ws4redis.store.loops import this_loop

#: What a hook, a policy or an overridden method of the subscriber raises to refuse a socket.
REFUSALS = (PermissionDenied, DenyConnection)

#: What says nothing about the hook that raises it, and ends the handshake.
ENDS = (*REFUSALS, BusyError)


class HookError(Exception):
    """A hook has raised what is meant for the interpreter or the event loop, such as SystemExit."""


class Calls:
    """Runs the project's code for one socket, and looks up sessions for it: one after the other.

    Many hooks wait for a database or another service, and under gevent, where legacy ran, they did
    not wait for each other either. So those of different sockets run side by side, in threads. A
    call is next in turn according to whom it is for: the user of the socket, or the address of its
    client until we know who the user is.

    :param about: what the server says about the socket, or what it would of a further subscription.
    """

    __slots__ = ("_about", "_begun", "_context", "_job", "_until", "failed", "whom")

    def __init__(self, about: dict[str, Any] | Derived) -> None:
        self._about = about
        scope = about.socket if isinstance(about, Derived) else about
        #: Who takes turns, and for whom all that a socket uses is counted.
        self.whom: Hashable = address_of(scope)
        self._begun = time.monotonic()
        self._context = copy_context()
        #: Until when it waits, by `time.monotonic`; for ever once the handshake is over.
        self._until = time.monotonic() + deadlines.HANDSHAKE
        #: The last job while it runs, also if nobody waits for it any more.
        self._job: Job | None = None
        #: True once a hook of the settings has raised an error.
        self.failed = False
        self.know(scope.get("user"))

    def know(self, user: Any) -> None:
        """Take turns as a user from now on, unless it is none, or is not loaded yet.

        This never loads one: it is called on the event loop.
        """
        user = unwrapped(user)
        if issubclass(type(user), Model) and user.pk is not None:
            self.whom = type(user), user.pk

    @property
    def scope(self) -> dict[str, Any]:
        """What the server says about the socket."""
        return self._about.scope() if isinstance(self._about, Derived) else self._about

    @property
    def age(self) -> float:
        """Seconds since the handshake of the socket began."""
        return time.monotonic() - self._begun

    @property
    def time_left(self) -> float:
        """Seconds for which the client may still wait; without end once it has its answer."""
        return max(self._until - time.monotonic(), deadlines.LAST)

    def for_another(self, about: Derived) -> Calls:
        """Return what runs calls for another subscription of the socket, with a time of its own.

        Its `age` and its `context` are those of the socket.
        """
        calls = Calls(about)
        calls._begun, calls._context = self._begun, self._context
        return calls

    @classmethod
    def for_many(cls, whom: str) -> Calls:
        """Return what runs calls for many sockets at once, and waits for threads as it must.

        :param whom: who takes turns with the clients of single sockets.
        """
        calls = cls({})
        calls.whom = whom
        calls.be_patient()
        return calls

    @property
    def context(self) -> Context:
        """A copy of the context in which the handshake began, with what a middleware has noted."""
        return self._context.copy()

    def be_patient(self) -> None:
        """Wait for threads as long as it takes from now on: the handshake is over."""
        self._until = math.inf

    async def hook(self, hook: Callable[..., Any] | str, *args: Any) -> Any:
        """Call a hook of the settings and return its result.

        A synchronous hook runs in a worker thread, where it may use the ORM. A generator is
        consumed there as well.

        :param hook: a callable, or its dotted path.
        :raises ImportError: if the hook cannot be found.
        :raises TypeError: if the hook cannot be called.
        :raises HookError: if the hook raises what is no ``Exception``, or ``StopIteration``.
        :raises channels_ws4redis.handshake.refusals.BusyError: as `run` does.
        :raises Exception: whatever else the hook raises.
        """
        try:
            return await self._hook(hook, *args)
        except ENDS:
            raise
        except Exception:
            self.failed = True
            raise

    async def _hook(self, hook: Callable[..., Any] | str, *args: Any) -> Any:
        function = import_string(hook) if isinstance(hook, str) else hook
        if not callable(function):
            raise TypeError(f"the hook {hook!r} is not callable")
        if iscoroutinefunction(function) or iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 # asks for the type of the method
        ):
            return await self._await(function, function(*args))
        result = await self.run(_consume, function, *args)
        # A lambda or a decorator may hide that the function behind it is asynchronous.
        return await self._await(function, result) if inspect.isawaitable(result) else result

    async def _await(self, function: Callable[..., Any], awaitable: Awaitable[Any]) -> Any:
        # In a task of its own, or the socket could not end with a hook that swallows cancellation.
        context = copy_context()
        task = this_loop().spawn(_outcome(awaitable), "ws4redis-hook", context)
        try:
            async with self._not_for_ever(function):
                await asyncio.wait([task])
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=deadlines.LAST)
        if task.cancelled():  # before its first step
            raise HookError("its task was cancelled")
        result, error = task.result()
        if error is not None:
            raise error
        for variable, value in context.items():  # the next hook finds what this one has set
            if variable.get(None) is not value:
                variable.set(value)
        return result

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run blocking code of the project in a worker thread, where it may use the ORM.

        :raises channels_ws4redis.handshake.refusals.BusyError: during the handshake, if no thread
            becomes free in time, or the code does not end in time.
        :raises HookError: if it raises what is no ``Exception``, or ``StopIteration``, which no
            future can pass on: whoever waits for it would wait for ever.
        :raises Exception: whatever else it raises.
        """
        return await self._run(Kind.HOOK, function, *args)

    async def look_up(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run code of the package that may ask the database for a session or user, as `run` does.

        Look-ups do not wait until hooks of the project have ended.
        """
        return await self._run(Kind.LOOK_UP, function, *args)

    async def _run(self, kind: Kind, function: Callable[..., Any], *args: Any) -> Any:
        if asyncio.get_running_loop() in AsyncToSync.loop_thread_executors:
            # ``async_to_sync`` runs the loop, as it does for an asynchronous test of Django's
            # TestCase. The data that the test has made are seen in the test's own thread alone.
            return await DatabaseSyncToAsync(_guarded)(function, *args)
        await self.ended()
        job = self._job = Job(threads(), kind, self.whom)
        call = DatabaseSyncToAsync(_guarded, thread_sensitive=False, executor=job)
        try:
            async with self._not_for_ever(args[0] if function is _consume else function):
                with self._limited(job):
                    return await call(function, *args)
        finally:
            if job.future.done() and self._job is job:
                self._job = None

    async def ended(self) -> None:
        """Wait for a call that may still run although nobody waits for it: its client has gone."""
        # Again and again, as several may wait, and another one's call may have begun first.
        while self._job is not None and not self._job.future.done():
            # Shielded, or who gives up waiting would cancel the call while that waits for a thread.
            done = asyncio.shield(asyncio.wrap_future(self._job.future))
            await asyncio.gather(done, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _not_for_ever(self, function: Callable[..., Any]) -> AsyncIterator[None]:
        """Go on without a call that does not end, as long as the handshake is not over."""
        if self.time_left == math.inf:
            yield
            return
        try:
            async with asyncio.timeout(deadlines.CALL) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise  # of the hook's own
            raise BusyError(
                f"{_name_of(function)} has not ended in {deadlines.CALL:g} s; give what it waits "
                "for a timeout",
                "hooks that hang",
            ) from None

    @contextlib.contextmanager
    def _limited(self, job: Job) -> Iterator[None]:
        """Have a job give up if it waits for longer than the handshake may."""
        if self.time_left == math.inf:
            yield
            return
        seconds = min(deadlines.THREAD, self.time_left)
        timer = asyncio.get_running_loop().call_later(seconds, job.give_up)
        try:
            yield
        finally:
            timer.cancel()


async def _outcome(awaitable: Awaitable[Any]) -> tuple[Any, Exception | None]:
    """Return the result of a hook, or what it has raised, which is nobody's if nobody waits."""
    try:
        return await awaitable, None
    except Exception as error:  # noqa: BLE001 # whatever the project raises
        return None, error
    except BaseException as error:  # noqa: BLE001 # it must not end the process
        failure = HookError(f"it raised {error!r}")
        failure.__cause__ = error
        return None, failure


def _name_of(function: Callable[..., Any]) -> str:
    """Return by which name the project knows a function."""
    function = inspect.unwrap(function)
    function = getattr(function, "func", function)  # of a partial
    module = getattr(function, "__module__", type(function).__module__)
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _guarded(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise HookError(f"it raised {error!r}") from error


def _consume(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    return list(result) if inspect.isgenerator(result) else result


def overrides(instance: object, base: type, *names: str) -> bool:
    """Tell whether the class of ``instance`` has one of these methods of its own."""
    cls = type(instance)
    return cls is not base and any(
        getattr(cls, name, None) is not getattr(base, name) for name in names
    )
