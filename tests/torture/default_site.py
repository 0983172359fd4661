"""The tortured site as a project has it that sets nothing; a module of Django settings."""

from tests.torture.site import *  # noqa: F403 # a settings module builds on another one this way

del WS4REDIS_HISTORY  # noqa: F821 # it comes from there
