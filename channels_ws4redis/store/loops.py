"""What lives as long as an event loop: the objects that its coroutines share, and stray tasks."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Loop:
    """Owns what belongs to one event loop, and closes all of it when the loop ends."""

    def __init__(self) -> None:
        self._owned: dict[Hashable, Any] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._end = _end(self)
        # The first step of the generator awaits nothing, so that it can be taken by hand.
        with contextlib.suppress(StopIteration):
            anext(self._end).send(None)

    def spawn(
        self,
        work: Coroutine[Any, Any, T],
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Start a task that nobody need await; a failure is logged.

        The event loop itself keeps only a weak reference to a task, which may disappear in the
        middle of its work.

        :param name: of the task, for the log.
        :param context: what it runs in; None for a copy of that of the caller.
        """
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The task %s failed", task.get_name(), exc_info=error)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the loop's object of this key, made when it is first asked for.

        An object that has an ``async close()`` is closed when the loop ends. What was made last is
        closed first.
        """
        if key not in self._owned:
            self._owned[key] = make()
        owned: T = self._owned[key]
        return owned

    def forget(self, key: Hashable, owned: object) -> None:
        """Give up an object without closing it, unless there is another one of this key by now."""
        if self._owned.get(key) is owned:
            del self._owned[key]

    async def close(self) -> None:
        """End all tasks and close all objects; what is asked for later is made anew."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._owned:
            _, owned = self._owned.popitem()
            if inspect.iscoroutinefunction(getattr(owned, "close", None)):
                try:
                    await owned.close()
                except Exception:
                    logger.exception("%r could not be closed with its event loop", owned)


#: By event loop. The entry is removed when the loop ends, since what a loop owns refers to the
#: loop, and would keep the weak key alive.
_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Loop] = WeakKeyDictionary()


def this_loop() -> Loop:
    """Return what belongs to the running event loop.

    :raises RuntimeError: if no event loop is running in this thread.
    """
    running = asyncio.get_running_loop()
    loop = _loops.get(running)
    if loop is None:
        loop = _loops[running] = Loop()
    return loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that is running in this thread, None if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _end(loop: Loop) -> AsyncGenerator[None]:
    """Wait for the end of the running event loop, and close what belongs to it.

    ``asyncio.run``, uvicorn and asgiref end an event loop with ``shutdown_asyncgens()``. That
    method closes every generator that has been started and not finished, and is the only hook that
    asyncio offers for this purpose.
    """
    try:
        yield
    finally:
        _loops.pop(asyncio.get_running_loop(), None)
        await loop.close()
