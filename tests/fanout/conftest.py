"""A fan-out in the tests' own process."""

from __future__ import annotations

import pytest
from channels.layers import get_channel_layer

from channels_ws4redis.fanout.groups import get_fanout
from tests.listeners import LAYERS, close_fanout, configuration


@pytest.fixture(params=LAYERS)
def layer_name(request, settings, redis_url):
    """Every channel layer in turn is the project's."""
    settings.CHANNEL_LAYERS = configuration(request.param, redis_url)
    return request.param


@pytest.fixture
async def fanout(request, settings, redis_url):
    """The fan-out of the test's loop, on the package's own layer unless the test says otherwise.

    With a short history, which is the harder case.
    """
    settings.WS4REDIS_HISTORY = 1
    if "layer_name" in request.fixturenames:
        request.getfixturevalue("layer_name")
    else:
        settings.CHANNEL_LAYERS = configuration("redis", redis_url)
    yield get_fanout(get_channel_layer())
    await close_fanout(get_channel_layer())
