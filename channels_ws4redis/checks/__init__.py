"""System checks: what a project, above all one from legacy, typically has wrong. Private."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.checks.deployment import check_reach, check_sessions
from channels_ws4redis.checks.layers import check_layer, check_one_process
from channels_ws4redis.checks.leftovers import check_leftovers
from channels_ws4redis.checks.policies import (
    check_clients_publish,
    check_publish_options,
    check_routes,
)
from channels_ws4redis.checks.servers import check_runserver
from channels_ws4redis.checks.values import (
    check_hooks,
    check_names,
    check_origins,
    check_settings,
)

Check = Callable[..., list[CheckMessage]]


def register() -> None:
    """Register all checks with Django."""
    checks.register(check_settings)
    for check in (
        check_names,
        check_origins,
        check_layer,
        check_hooks,
        check_leftovers,
        check_runserver,
        check_clients_publish,
        check_routes,
        check_publish_options,
    ):
        checks.register(_where_settings_make_sense(check))
    for check in (check_reach, check_one_process, check_sessions):
        checks.register(_where_settings_make_sense(check), deploy=True)


@cache  # Django calls `register` anew for each set of apps
def _where_settings_make_sense(check: Check) -> Check:
    """Have a check find nothing if it rests on a setting whose value makes no sense."""

    @wraps(check)
    def checked(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
        try:
            return check(app_configs, **kwargs)
        except ImproperlyConfigured:
            if not check_settings(app_configs):
                raise
            return []  # E004 says so

    return checked
