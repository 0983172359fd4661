"""A subscription gets what a socket of its own gets, whatever happens to both."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.subscription_lives import STEPS, Step, play, steps_of

pytestmark = [pytest.mark.django_db, pytest.mark.server]


@pytest.fixture(autouse=True)
def unbounded(settings):
    """Let clients do as much as they like, with a short history."""
    settings.WS4REDIS_HISTORY = 5
    settings.WS4REDIS_HANDSHAKE_RATE = None
    settings.WS4REDIS_PUBLISH_RATE = settings.WS4REDIS_FILL_RATE = None


LIVES = st.lists(
    st.builds(Step, st.sampled_from(sorted(STEPS)), st.integers(0, 2**16)),
    min_size=12,
    max_size=30,
)


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a life takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=LIVES)
def test_any_life(redis_client, steps: list[Step]) -> None:
    """Of at least a dozen steps."""
    asyncio.run(play(redis_client, steps))


@pytest.mark.parametrize("seed", range(2))
def test_long_lives(redis_client, seed: int) -> None:
    """The same lives each time; ``python -m tests.subscription_lives`` plays thousands."""
    asyncio.run(play(redis_client, steps_of(seed, 60)))
