"""Policies: what a project says about a family of facilities, and which of them a facility has.

A policy is a function and a route in the syntax of Django's ``path()``. The route is matched with
the whole facility. As among Django's URL patterns, the first one that matches counts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.urls.resolvers import RoutePattern
from django.utils.module_loading import autodiscover_modules

from channels_ws4redis.conf import MAX_EXPIRE, MAX_HISTORY
from channels_ws4redis.protocol.history import REPLAY_REMEDY, Replay, is_replay

#: Facilities whose policy publishers find without asking the routes again.
REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How the messages of a facility are treated.

    :raises ImproperlyConfigured: for a value that makes no sense.
    """

    #: Messages in the history of a channel; None for as many as WS4REDIS_HISTORY says.
    history: int | None = None
    #: Seconds for which it is kept; None for as long as WS4REDIS_HISTORY_EXPIRE says.
    history_expire: int | None = None
    #: Seconds for which a message is stored; None for as long as WS4REDIS_EXPIRE says.
    expire: int | None = None
    #: False if messages are sent and nothing else.
    keep: bool = True
    #: What somebody is sent who has just come; None for what WS4REDIS_REPLAY says.
    replay: Replay | None = None
    #: The flags that clients may publish with.
    publish: Collection[str] = frozenset()
    #: Bytes in one message of a client. If WS4REDIS_MAX_MESSAGE is less, that counts.
    max_message_bytes: int | None = None

    def __post_init__(self) -> None:
        _require_number("history", self.history, 1, MAX_HISTORY)
        _require_number("history_expire", self.history_expire, 1, MAX_EXPIRE)
        _require_number("expire", self.expire, 0, MAX_EXPIRE)
        _require_number("max_message_bytes", self.max_message_bytes, 1)
        if not isinstance(self.keep, bool):
            raise ImproperlyConfigured(f"keep={self.keep!r} is neither True nor False.")
        if self.replay is not None and not is_replay(self.replay):
            raise ImproperlyConfigured(f"replay={self.replay!r} is none of {REPLAY_REMEDY}.")
        if not self.keep and (self.history or self.history_expire or self.expire):
            raise ImproperlyConfigured(
                "keep=False keeps nothing; leave history=…, history_expire=… and expire=… out, or "
                "keep=False."
            )
        flags = self.publish
        if type(flags) not in {list, tuple, set, frozenset} or not all(
            isinstance(flag, str) for flag in flags
        ):
            raise ImproperlyConfigured(
                f"publish={flags!r} is no list of flags; write publish=['publish-broadcast']."
            )
        object.__setattr__(self, "publish", frozenset(flags))


def _require_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    if value is None:
        return
    too_much = most is not None and isinstance(value, int) and value > most
    if isinstance(value, bool) or not isinstance(value, int) or value < least or too_much:
        until = f" to {most}" if most is not None else " up"
        raise ImproperlyConfigured(f"{name}={value!r} is no whole number from {least}{until}.")


#: Those of a facility that no policy names.
NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What a project says about the facilities of a route.

    To be made by `of`.
    """

    #: As the project has written it.
    route: str
    #: Called with the request of the handshake and the arguments in the facility.
    function: Callable[..., Any]
    options: Options
    _regex: re.Pattern[str]
    _converters: Mapping[str, Any]

    @classmethod
    def of(cls, route: str, function: Callable[..., Any], options: Options) -> Policy:
        """Make a policy.

        :raises ImproperlyConfigured: if the route cannot be read, or the function cannot be called
            with what the route has in it.
        """
        pattern = RoutePattern(route, is_endpoint=True)
        # A client may send line breaks. Where `.` does not stand for them, as in Django's `path`
        # converter, they would take a facility out of its policy.
        regex = re.compile(pattern.regex.pattern, re.DOTALL)
        self = cls(route, function, options, regex, pattern.converters)
        self._require_callable()
        return self

    @property
    def name(self) -> str:
        """The dotted path of the function."""
        function = self.function
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"

    def _require_callable(self) -> None:
        if not callable(self.function):
            raise ImproperlyConfigured(f"The policy of {self.route!r} is no function.")
        try:
            signature = inspect.signature(self.function)
        except ValueError:
            return  # one that is not written in Python does not tell
        try:
            signature.bind(None, **self._converters)
        except TypeError as error:
            arguments = ", ".join(["request", *self._converters])
            raise ImproperlyConfigured(
                f"The policy {self.name} of {self.route!r} cannot be called with ({arguments}): "
                f"{error}."
            ) from None

    def match(self, facility: str) -> Match | None:
        """Return what a facility has for the arguments of the route; None if it does not match.

        :raises Exception: whatever a converter of the project raises, but for ``ValueError``.
        """
        found = self._regex.fullmatch(facility)
        try:
            return None if found is None else self._converted(found)
        except SystemExit as error:  # which would end the process
            raise RuntimeError(f"a converter raised {error!r}") from error

    def _converted(self, found: re.Match[str]) -> Match | None:
        arguments, spelt = {}, True
        for name, converter in self._converters.items():
            try:
                arguments[name] = converter.to_python(found[name])
            except ValueError:
                return None
            spelt = spelt and _spells(converter, arguments[name], found[name])
        return Match(self, arguments, spelt)


def _spells(converter: Any, value: Any, text: str) -> bool:
    """Tell whether a converter writes a value as a client has written it.

    With a ``ValueError`` it says that it cannot write the value at all. The policy counts all the
    same: its function would be called with that value.
    """
    try:
        return str(converter.to_url(value)) == text
    except ValueError:
        return False


class Match(NamedTuple):
    """A facility that a policy names."""

    policy: Policy
    #: The arguments of the function, without the request.
    arguments: dict[str, Any]
    #: False if the facility is not spelt as its arguments are: ``orders/007`` has those of
    #: ``orders/7``, and is another facility.
    is_canonical: bool


#: In the order in which they are asked.
policies: list[Policy] = []


def register(policy: Policy) -> None:
    """Have a policy count, after those that are registered already."""
    policies.append(policy)
    _remembered.cache_clear()


@cache
def discover() -> None:
    """Import the modules ``facilities`` of all apps, once, as Django does with ``admin``.

    Django does so when it starts, if the package is among its apps. If not, the first socket does.

    :raises Exception: whatever one of them raises.
    """
    autodiscover_modules("facilities")


def are_known() -> bool:
    """Tell whether all policies of the project have been imported."""
    return bool(discover.cache_info().currsize)


def match(facility: str) -> Match | None:
    """Return the policy of a facility and the arguments in it; None if no policy names it.

    :raises Exception: whatever a converter of the project raises, but for ``ValueError``.
    """
    found = (policy.match(facility) for policy in policies)
    return next((each for each in found if each is not None), None)


def options_of(facility: str | None) -> Options:
    """Return the options with which a message is published; raises as `match` does."""
    found = _remembered(facility) if policies and facility is not None else None
    return NO_OPTIONS if found is None else found.policy.options


def is_named(facility: str) -> bool:
    """Tell whether a policy names a facility; raises as `match` does."""
    return _remembered(facility) is not None


def is_misspelt(facility: str) -> bool:
    """Tell whether no socket can be on a facility, as its policy spells the arguments otherwise."""
    found = _remembered(facility) if policies else None
    return found is not None and not found.is_canonical


# Not for sockets: whoever opens them chooses facilities, and would fill it with these.
@lru_cache(maxsize=REMEMBERED)
def _remembered(facility: str) -> Match | None:
    return match(facility)
