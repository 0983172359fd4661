"""Running the project's own code: settings that name a callable, and overridden methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from channels.db import database_sync_to_async
from django.utils.module_loading import import_string


async def call(hook: Callable[..., Any] | str, *args: Any) -> Any:
    """Call a hook, given as a callable or its dotted path, and return its result.

    A synchronous one runs in a worker thread, where it may use the ORM; a generator is consumed
    there as well.

    :raises Exception: whatever the hook raises, or ImportError if it cannot be found.
    """
    function = import_string(hook) if isinstance(hook, str) else hook
    if not callable(function):
        raise TypeError(f"the hook {hook!r} is not callable")
    if iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 # asks for the type of the method
    ):
        return await function(*args)
    return await database_sync_to_async(_run)(function, *args)


def _run(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    return list(result) if inspect.isgenerator(result) else result


def overrides(instance: object, base: type, *names: str) -> bool:
    """Tell whether the class of ``instance`` has one of these methods of its own."""
    cls = type(instance)
    return any(getattr(cls, name, None) is not getattr(base, name) for name in names)
