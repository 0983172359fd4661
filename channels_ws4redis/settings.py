"""The settings as a module of the legacy package: to be read, and assigned to while running.

Legacy code does ``from ws4redis import settings as private_settings`` and then
``private_settings.WS4REDIS_ALLOWED_CHANNELS = function``. Such an assignment wins over Django's
settings until the attribute is deleted, or set to what Django's settings say.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.conf import NAMES as _NAMES
from channels_ws4redis.conf import settings as _settings
from channels_ws4redis.store.process import forget_connections

__all__ = list(_NAMES)

_CONNECTION = "WS4REDIS_CONNECTION"


class _SettingsModule(ModuleType):
    """A module whose capital names are those of `channels_ws4redis.conf.settings`."""

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return getattr(_settings, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _NAMES:
            super().__setattr__(name, value)
            return
        _settings.overrides.pop(name, None)
        # Whoever puts the old value back, as monkeypatch does, must not freeze it by that.
        if value != _configured(name):
            _settings.overrides[name] = value
        _changed(name)

    def __delattr__(self, name: str) -> None:
        if name not in _NAMES:
            super().__delattr__(name)
        else:
            _settings.overrides.pop(name, None)
            _changed(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_NAMES})


def _configured(name: str) -> Any:
    try:
        return getattr(_settings, name)
    except ImproperlyConfigured:
        return None


def _changed(name: str) -> None:
    if name == _CONNECTION:
        forget_connections()


sys.modules[__name__].__class__ = _SettingsModule
