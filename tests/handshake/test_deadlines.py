"""The times of a handshake: each ends before the one that it is a part of."""

from __future__ import annotations

import pytest

from channels_ws4redis.handshake import deadlines
from channels_ws4redis.handshake.refusals import BusyError
from channels_ws4redis.handshake.threads import Kind, threads
from tests.handshake.test_policies import LISTEN, admitted, policed
from tests.handshake.test_threads import busy

#: Seconds that daphne gives a handshake by default.
DAPHNES = 5.0


def test_none_lasts_longer_than_what_it_is_a_part_of() -> None:
    """And all of them end a second before daphne gives up."""
    assert deadlines.TOGETHER < deadlines.THREAD < deadlines.POLICY < deadlines.HANDSHAKE
    assert deadlines.TURN < deadlines.HANDSHAKE <= DAPHNES - 1


@pytest.mark.usefixtures("no_policies")
@pytest.mark.django_db
async def test_a_policy_that_has_no_thread_has_not_failed(monkeypatch, settings) -> None:
    """Its socket is told to come back, as with every other call."""
    settings.WS4REDIS_THREADS = 2
    scale = 0.5
    for name in ("THREAD", "POLICY", "HANDSHAKE"):
        monkeypatch.setattr(deadlines, name, getattr(deadlines, name) * scale)
    policed("foo", True)
    with (
        busy(threads(), Kind.HOOK, 1),
        pytest.raises(BusyError, match="no thread became free"),
    ):
        await admitted("foo", LISTEN)
