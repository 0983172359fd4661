"""System checks: what a project, above all one from legacy, typically has wrong. Private."""

from __future__ import annotations

from django.core import checks

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


def register() -> None:
    """Register all checks with Django."""
    for check in (
        check_settings,
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
        checks.register(check)
    for check in (check_reach, check_one_process, check_sessions):
        checks.register(check, deploy=True)
