"""System checks of who may use and publish what, by policies and without them. Private."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage

from channels_ws4redis.checks.values import usable_subscriber
from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.policies import Policy, policies
from channels_ws4redis.subscriber import RedisSubscriber


def check_clients_publish(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find that anybody may publish to everybody, where nothing says that this is meant (W005)."""
    subscriber = usable_subscriber()
    if (
        settings.WS4REDIS_ALLOW_PUBLISH is not None
        or settings.WS4REDIS_FACILITIES != "open"
        or settings.WS4REDIS_ALLOWED_CHANNELS is not None
        or subscriber is None
        or not subscriber.publish_channels
        or subscriber.set_pubsub_channels is not RedisSubscriber.set_pubsub_channels
    ):
        return []
    return [
        checks.Warning(
            "Anyone who can open a socket may publish to everyone, by adding 'publish-broadcast' "
            "to its URL.",
            hint="Set WS4REDIS_ALLOW_PUBLISH to False if only Django code publishes, and to True "
            "if this is meant. For rules of your own write policies, or set "
            "WS4REDIS_ALLOWED_CHANNELS.",
            id="ws4redis.W005",
        )
    ]


def check_routes(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find policies that are never asked (E005), and that none is where one has to be (W011)."""
    problems: list[CheckMessage] = [
        checks.Error(
            f"The policy {policy.name} of {policy.route!r} is never asked: {problem}.",
            hint="Correct its route, or remove it.",
            id="ws4redis.E005",
        )
        for policy, problem in _never_asked(policies)
    ]
    if settings.WS4REDIS_FACILITIES == "strict" and not policies:
        problems.append(
            checks.Warning(
                "WS4REDIS_FACILITIES is 'strict' and there is no policy: every socket is refused.",
                hint="Write policies in a module 'facilities' of an app in INSTALLED_APPS.",
                id="ws4redis.W011",
            )
        )
    return problems


def _never_asked(asked: Sequence[Policy]) -> Iterator[tuple[Policy, str]]:
    """Yield policies that are never asked, and why that is."""
    begins = not settings.WEBSOCKET_URL.endswith("/")
    first: dict[str, Policy] = {}
    for index, policy in enumerate(asked):
        route = policy.route
        # By whatever names the function gets what is between the brackets.
        shape = re.sub(r"<(?:([^>:]+):)?[^>]+>", lambda found: f"<{found[1] or 'str'}>", route)
        other = first.setdefault(shape, policy)
        if other is not policy:
            yield policy, f"{other.name} has the same route and comes first"
        elif route[:1] != "<" and route.startswith("/") != begins:
            what = "begins with a slash" if begins else "begins with no slash"
            yield policy, f"with the WEBSOCKET_URL {settings.WEBSOCKET_URL!r} a facility {what}"
        elif before := next((each for each in asked[:index] if _takes(each, route)), None):
            yield policy, f"the route {before.route!r} of {before.name} comes first"
        elif "(?P<" in route or route.startswith("^") or route.endswith("$"):
            yield policy, "its route is a regular expression, and path() knows none"


def _takes(policy: Policy, route: str) -> bool:
    """Tell whether a policy is asked about the one facility of a route without arguments."""
    try:
        return "<" not in route and policy.match(route) is not None
    except Exception:  # noqa: BLE001 # a converter that fails has its sockets refused
        return True


def check_publish_options(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find options of policies that let clients publish with flags which there are not (E006)."""
    subscriber = usable_subscriber()
    known = set() if subscriber is None else set(subscriber.publish_channels)
    return [
        checks.Error(
            f"The policy {policy.name} lets clients publish with {flag!r}, which is no flag to "
            "publish with.",
            hint=f"Its option publish may name {', '.join(sorted(known))}.",
            id="ws4redis.E006",
        )
        for policy in policies
        for flag in sorted(set(policy.options.publish) - known)
        if subscriber is not None
    ]
