"""Which backend a channel layer has; the only place that asks what kind of layer it is."""

from __future__ import annotations

from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.conf import OWN_LAYER
from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.in_memory import InMemoryBackend
from channels_ws4redis.fanout.own import OwnBackend
from channels_ws4redis.fanout.stock import StockBackend
from channels_ws4redis.layers import RedisChannelLayer
from channels_ws4redis.store.process import this_process

#: The key of the process's backends, by layer.
BACKENDS = "backends"


def backend_named(alias: str) -> Backend:
    """Return the backend for the channel layer of an alias in ``CHANNEL_LAYERS``.

    :raises django.core.exceptions.ImproperlyConfigured: if there is no such layer.
    """
    layer = get_channel_layer(alias)
    if layer is None:
        raise ImproperlyConfigured(f"There is no channel layer; set {OWN_LAYER}")
    return backend_of(layer)


def backend_of(layer: Any) -> Backend:
    """Return the backend for a channel layer, the same each time; layers are never given up."""
    backends: dict[Any, Backend] = this_process().get(BACKENDS, dict)
    backend = backends.get(layer)
    if backend is None:
        backend = backends[layer] = _choose(layer)
    return backend


def _choose(layer: Any) -> Backend:
    if isinstance(layer, RedisChannelLayer):
        return OwnBackend(layer)
    if isinstance(layer, InMemoryChannelLayer):
        return InMemoryBackend(layer)
    return StockBackend(layer)
