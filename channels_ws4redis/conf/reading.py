"""How a setting is read from Django's settings, and what makes no sense is refused. Private."""

from __future__ import annotations

from collections.abc import Collection
from math import inf, nan
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import empty


def improper(name: str, value: Any, remedy: str) -> ImproperlyConfigured:
    """Return the error of a setting whose value makes no sense.

    :param remedy: what the value must be.
    """
    return ImproperlyConfigured(f"{name} is {value!r}; it must be {remedy}.")


class Reader:
    """Reads settings; nothing else in the package reads ``django.conf``.

    ``overrides`` holds what code assigned at run time through ``channels_ws4redis.settings``,
    the way legacy projects patch ``ws4redis.settings``; it wins over Django's settings.
    """

    def __init__(self) -> None:
        self.overrides: dict[str, Any] = {}

    def _get(self, name: str, default: Any) -> Any:
        if name in self.overrides:
            return self.overrides[name]
        # Past Django's lazy object, which runs Python for each of its attributes, and raises and
        # catches an exception for a setting that is absent: seven are looked at for each message,
        # which took 9 of 48 µs.
        holder = object.__getattribute__(django_settings, "_wrapped")
        if holder is empty:
            return getattr(django_settings, name, default)  # which reads them in
        return getattr(holder, name, default)

    def _flag(self, name: str) -> bool | None:
        """Return what is True, False, or the same as a number; None for what is not set."""
        value = self._get(name, None)
        if value is None or value in (True, False):
            return None if value is None else bool(value)
        # A text from the environment, such as "False", would be true.
        raise improper(name, value, "True or False")

    def _whole_number(self, name: str, default: int, minimum: int, most: float = inf) -> int:
        value = self._get(name, default)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number and minimum <= value <= most:
            return int(value)
        until = "" if most == inf else f" and at most {most}"
        raise improper(name, value, f"a whole number of at least {minimum}{until}")

    def _limit(self, name: str, default: int | None) -> int | None:
        if self._get(name, default) is None:
            return None
        return self._whole_number(name, default or 1, minimum=1)

    def _seconds(self, name: str, default: float) -> float:
        value = self._get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            seconds = float(value) if is_number else nan
        except OverflowError:  # of a whole number
            seconds = inf
        if not 0 <= seconds < inf:
            raise improper(name, value, "a number of seconds")
        return seconds

    def _text(self, name: str, default: str) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise improper(name, value, "a text")
        return value

    def _texts(
        self, name: str, default: Collection[str], remedy: str = "a list of texts"
    ) -> Collection[str]:
        value: Collection[str] = self._get(name, default)
        is_list = isinstance(value, list | tuple | set | frozenset)
        if not is_list or not all(isinstance(each, str) for each in value):
            raise improper(name, value, remedy)
        return value
