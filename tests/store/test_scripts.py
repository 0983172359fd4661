"""What is sent to Redis to have scripts run."""

from __future__ import annotations

import time

import redis
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.store import scripts
from channels_ws4redis.store.scripts import Batch, Command, Role, Script, pack

ONE = Script("return 1")
TWO = Script("return 2")

VALUES = st.binary() | st.integers() | st.text(st.characters(codec="utf-8"))


@given(st.lists(st.lists(VALUES)))
def test_requests_are_packed_as_redis_py_does_it(arguments) -> None:
    connection = redis.Connection()
    requests = [("EVALSHA", *each) for each in arguments]
    assert b"".join(pack(requests)) == b"".join(connection.pack_commands(requests))


def test_a_script_is_named_by_its_digest() -> None:
    (request,) = Batch([Command(ONE, ["key"], ["a", b"b", 3])]).requests()
    assert list(request) == ["EVALSHA", ONE.sha, 1, "key", "a", b"b", 3]


def test_only_what_has_not_run_is_sent_again_and_each_script_in_full_once() -> None:
    batch = Batch([Command(script, [], []) for script in (ONE, TWO, ONE, TWO)])
    unknown = redis.exceptions.NoScriptError("NOSCRIPT")
    failed = redis.exceptions.ResponseError("ERR")
    assert not batch.take([unknown, 2, unknown, failed])
    first, second = batch.requests()
    assert list(first) == ["EVAL", "return 1", 0]
    assert list(second) == ["EVALSHA", ONE.sha, 0]
    assert not batch.take([b"a", b"b"])
    assert not batch.due
    assert batch.outcomes == [b"a", 2, b"b", failed]


def test_what_a_replica_refuses_is_sent_once_more_and_in_full_if_that_is_asked_for() -> None:
    batch = Batch([Command(ONE, [], []), Command(TWO, [], [])])
    refused = redis.exceptions.ReadOnlyError("READONLY")
    unknown = redis.exceptions.NoScriptError("NOSCRIPT")
    assert batch.take([refused, 2])
    assert [list(request) for request in batch.requests()] == [["EVALSHA", ONE.sha, 0]]
    assert not batch.take([unknown])
    assert [list(request) for request in batch.requests()] == [["EVAL", "return 1", 0]]
    assert batch.take([refused])
    assert not batch.due
    assert batch.outcomes == [refused, 2]


SHORT = Command(ONE, ["key"], [], ("PUBLISH", "key", "value"))


def test_a_short_form_is_sent_where_the_server_is_known_to_be_in_charge() -> None:
    """And once more by its script, if the server says that it is not."""
    (request,) = Batch([SHORT]).requests()
    assert list(request) == ["EVALSHA", ONE.sha, 1, "key"]
    role = Role()
    role.confirm(time.monotonic())
    batch = Batch([SHORT, Command(ONE, [], [])], role)
    assert [request[0] for request in batch.requests()] == ["PUBLISH", "EVALSHA"]
    assert batch.take([redis.exceptions.ReadOnlyError("READONLY"), 2])
    assert [list(request) for request in batch.requests()] == [["EVALSHA", ONE.sha, 1, "key"]]


def test_a_server_is_asked_once_a_second_whether_it_is_in_charge(monkeypatch) -> None:
    """By scripts that stand for short commands, and no others; a refusal answers nothing."""
    monkeypatch.setattr(scripts.time, "monotonic", lambda: now)
    role, now = Role(), 0.0

    def sent(command: Command, reply: object = 1) -> str | bytes | int:
        """Run a command, and return by which one of Redis it was sent."""
        batch = Batch([command], role)
        (request,) = batch.requests()
        batch.take([reply])
        return request[0]

    assert [sent(Command(ONE, [], [])), sent(SHORT)] == ["EVALSHA", "EVALSHA"]
    now = 0.9
    assert [sent(Command(ONE, [], [])), sent(SHORT)] == ["EVALSHA", "PUBLISH"]
    now = 1.1
    for refusal in ("READONLY", "NOPERM"):
        assert sent(SHORT, redis.exceptions.ResponseError(refusal)) == "EVALSHA"
    assert [sent(SHORT), sent(SHORT)] == ["EVALSHA", "PUBLISH"]
