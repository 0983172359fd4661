"""Running the project's own code: settings that name a callable, and overridden methods."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import iscoroutinefunction
from channels.db import DatabaseSyncToAsync
from django.utils.module_loading import import_string

#: The hooks of one socket run one after the other, those of different sockets side by side. Many
#: hooks wait for a database or another service, and under gevent, where legacy ran, they did not
#: wait for each other either.
_threads = ThreadPoolExecutor(16, thread_name_prefix="ws4redis-hook")


class HookError(Exception):
    """A hook has raised what is meant for the interpreter or the event loop, such as SystemExit."""


async def call(hook: Callable[..., Any] | str, *args: Any) -> Any:
    """Call a hook and return its result.

    A synchronous hook runs in a worker thread, where it may use the ORM. A generator is consumed
    there as well.

    :param hook: a callable, or its dotted path.
    :raises ImportError: if the hook cannot be found.
    :raises TypeError: if the hook cannot be called.
    :raises HookError: if the hook raises what is no ``Exception``, or ``StopIteration``.
    :raises Exception: whatever else the hook raises.
    """
    function = import_string(hook) if isinstance(hook, str) else hook
    if not callable(function):
        raise TypeError(f"the hook {hook!r} is not callable")
    if iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 # asks for the type of the method
    ):
        return await _finish(function(*args))
    result = await run(_consume, function, *args)
    # A lambda or a decorator may hide that the function behind it is asynchronous.
    return await _finish(result) if inspect.isawaitable(result) else result


async def _finish(awaitable: Awaitable[Any]) -> Any:
    """Await what a hook does; only the task's own cancellation passes as such."""
    task = asyncio.current_task()
    try:
        return await awaitable
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise HookError(f"it raised {error!r}") from error


async def run(function: Callable[..., Any], *args: Any) -> Any:
    """Run blocking code of the project in a worker thread, where it may use the ORM.

    :raises HookError: if it raises what is no ``Exception``, or ``StopIteration``, which no future
        can pass on: whoever waits for it would wait for ever.
    :raises Exception: whatever else it raises.
    """
    call = DatabaseSyncToAsync(_guarded, thread_sensitive=False, executor=_threads)
    return await call(function, *args)


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
    return any(getattr(cls, name, None) is not getattr(base, name) for name in names)
