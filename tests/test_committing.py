"""Publishing after the commit: of which database, and what happens if Redis is gone by then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from django.utils.connection import ConnectionDoesNotExist

from channels_ws4redis.publish.committing import after_commit
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.subscriber import RedisSubscriber
from tests.servers import ROOT
from tests.silent import frozen_server

pytestmark = [pytest.mark.server, pytest.mark.django_db(transaction=True)]


class UndoneError(Exception):
    """Rolls a transaction back."""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[str]:
    """The alias of a second database."""
    connections.settings["other"] = connections.settings["default"] | {"NAME": tmp_path / "other"}
    connections["other"].connect()  # at once, as a test may not connect to what is new
    yield "other"
    connections["other"].close()
    del connections["other"], connections.settings["other"]


def publish(message: str = "saved", **kwargs) -> None:
    """Publish to everyone after the commit."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher.publish_message(message, on_commit=True, **kwargs)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("database", ["default", "other"])
def test_the_commit_is_waited_for(other, redis_client, database, named):
    """Whichever database the transaction is of, and whether it is named or not."""
    with transaction.atomic(using=database):
        publish(**({"using": database} if named else {}))
        assert redis_client.get("broadcast:foo") is None
    assert redis_client.get("broadcast:foo") == b"saved"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("database", ["default", "other"])
def test_nothing_is_published_after_a_rollback(other, redis_client, database, named):
    """As what the message tells has not happened."""
    with suppress(UndoneError), transaction.atomic(using=database):
        publish(**({"using": database} if named else {}))
        raise UndoneError
    with transaction.atomic(using=database):
        pass
    assert redis_client.keys("*") == []


@pytest.mark.parametrize("order", [("default", "other"), ("other", "default")])
def test_all_transactions_are_waited_for(other, redis_client, order):
    """Of several open transactions, the last one counts."""
    with transaction.atomic(using=order[0]):
        with transaction.atomic(using=order[1]):
            publish()
        assert redis_client.get("broadcast:foo") is None
    assert redis_client.get("broadcast:foo") == b"saved"


@pytest.mark.parametrize("order", [("default", "other"), ("other", "default")])
def test_one_rollback_of_several_is_enough(other, redis_client, order):
    """Be it that of the outer transaction, or that of the inner one, before the outer's commit."""
    with suppress(UndoneError), transaction.atomic(using=order[0]):
        with transaction.atomic(using=order[1]):
            publish()
        raise UndoneError
    with (
        transaction.atomic(using=order[0]),
        suppress(UndoneError),
        transaction.atomic(using=order[1]),
    ):
        publish()
        raise UndoneError
    assert redis_client.keys("*") == []


def test_a_database_that_is_named_is_the_only_one(other, redis_client):
    """Its commit counts, whatever becomes of the others."""
    with suppress(UndoneError), transaction.atomic():
        with transaction.atomic(using=other):
            publish(using=other)
        assert redis_client.get("broadcast:foo") == b"saved"
        raise UndoneError


def test_a_savepoint_that_is_rolled_back_takes_the_message_along(redis_client):
    """And leaves what was published around it."""
    with transaction.atomic():
        publish("around")
        with suppress(UndoneError), transaction.atomic():
            publish("within")
            raise UndoneError
    assert redis_client.get("broadcast:foo") == b"around"


@pytest.mark.parametrize("undone", ["none", "inner", "middle", "outer"])
def test_blocks_within_blocks(redis_client, undone):
    """Whichever of the blocks around it is rolled back, the message goes with it."""
    with suppress(UndoneError), transaction.atomic():
        with suppress(UndoneError), transaction.atomic():
            with suppress(UndoneError), transaction.atomic():
                publish()
                undo_if(undone == "inner")
            undo_if(undone == "middle")
        assert redis_client.get("broadcast:foo") is None
        undo_if(undone == "outer")
    assert redis_client.get("broadcast:foo") == (b"saved" if undone == "none" else None)


def undo_if(wanted: bool) -> None:
    """Roll the innermost block back."""
    if wanted:
        raise UndoneError


def test_messages_come_in_the_order_in_which_they_were_published(redis_client):
    """After the commit as without one."""
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("{broadcast:foo}:events")
        pubsub.get_message(timeout=5)
        with transaction.atomic():
            for number in range(10):
                publish(str(number))
        got = [pubsub.get_message(timeout=5)["data"].rpartition(b"\n")[2] for _ in range(10)]
    assert got == [str(number).encode() for number in range(10)]


def test_without_a_transaction_it_is_published_at_once(other, redis_client):
    """So it can stand wherever a model is saved."""
    publish()
    assert redis_client.get("broadcast:foo") == b"saved"
    publish("again", using=other)
    assert redis_client.get("broadcast:foo") == b"again"


def test_a_database_that_is_not_used_need_not_be_there(other, redis_client):
    """Nor does a word for it connect to it."""
    connections[other].close()
    connections[other].ensure_connection = pytest.fail
    try:
        publish(using=other)
    finally:
        del connections[other].ensure_connection
    assert redis_client.get("broadcast:foo") == b"saved"


def test_a_database_that_there_is_not(redis_client):
    """Its name may be misspelt, which Django says."""
    with pytest.raises(ConnectionDoesNotExist, match="othre"):
        publish(using="othre")
    assert redis_client.keys("*") == []


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("database", ["default", "other"])
def test_a_transaction_that_is_managed_by_hand_is_an_error(other, redis_client, database, named):
    """Django does not know when it ends, so nothing is published before that."""
    transaction.set_autocommit(False, using=database)
    try:
        with pytest.raises(TransactionManagementError, match="manual transaction management"):
            publish(**({"using": database} if named else {}))
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)
    assert redis_client.keys("*") == []


def test_a_block_within_a_transaction_that_is_managed_by_hand_is_followed(redis_client):
    """Django runs what waits for it once autocommit is on again, unless that was rolled back."""
    transaction.set_autocommit(False)
    try:
        for ending in (transaction.rollback, transaction.commit):
            with transaction.atomic():
                publish(ending.__name__)
            ending()
            assert redis_client.get("broadcast:foo") is None
    finally:
        transaction.set_autocommit(True)
    assert redis_client.get("broadcast:foo") == b"commit"
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"1"


@pytest.mark.django_db
def test_the_transaction_around_a_test_is_captured(
    redis_client, django_capture_on_commit_callbacks
):
    """As in Django's TestCase, with and without a transaction of the code that is tested."""
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        publish()
        with transaction.atomic():
            publish()
        assert redis_client.get("broadcast:foo") is None
    assert len(callbacks) == 2
    assert redis_client.get("broadcast:foo") == b"saved"


@pytest.mark.django_db
def test_the_transaction_around_a_test_is_not_waited_for(other, redis_client):
    """It never ends, and must not hold back what waits for another database."""
    with transaction.atomic(using=other):
        publish()
    assert redis_client.get("broadcast:foo") == b"saved"


@contextmanager
def redis_that_refuses(settings, free_port: int) -> Iterator[None]:
    """Have nobody listen where Redis should."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    yield


@contextmanager
def redis_that_hangs(settings, free_port: int) -> Iterator[None]:
    """Have somebody take connections who never answers."""
    with frozen_server() as port:
        settings.WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": port, "socket_timeout": 0.2}
        yield


@pytest.fixture(params=[redis_that_refuses, redis_that_hangs], ids=["refuses", "hangs"])
def no_redis(request, settings, free_port: int) -> Iterator[None]:
    """A Redis that takes no message."""
    with request.param(settings, free_port):
        yield


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_redis_that_is_gone_fails_nothing(no_redis, caplog, in_transaction):
    """What is committed stays so: the failure is logged, and all others get their turn."""
    ran = []
    with transaction.atomic() if in_transaction else ExitStack():
        publish()
        transaction.on_commit(lambda: ran.append("a function of the project"))
    assert ran
    (line,) = errors(caplog)
    assert line.startswith("The message on 'broadcast:foo' is not published: ")
    assert "127.0.0.1" in line or "Timeout" in line


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the errors in the log."""
    return [found.getMessage() for found in caplog.records if found.levelname == "ERROR"]


@pytest.mark.parametrize("database", ["default", "other"])
def test_work_that_raises_keeps_nobody_from_the_commit(other, caplog, database):
    """Django logs it, names it, and goes on: whatever fails here must not look like the commit."""
    ran = []
    with transaction.atomic(using=database):
        after_commit(lambda: 1 // 0)  # type: ignore[arg-type, return-value] # returns nothing
        transaction.on_commit(lambda: ran.append("a function of the project"), using=database)
    assert ran
    (line,) = errors(caplog)
    assert "after_commit" in line


@pytest.mark.django_db
def test_a_redis_that_is_gone_fails_no_test_case(no_redis, django_capture_on_commit_callbacks):
    """Captured, it is as harmless as after a commit."""
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        publish()
    assert len(callbacks) == 1


def order(request: HttpRequest) -> HttpResponse:
    """Save a user and tell everybody; the query says what goes wrong."""
    asked = request.GET
    User.objects.create(username="order")
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher.publish_message("saved", **({"on_commit": True} if "explicit" in asked else {}))
    transaction.on_commit(lambda: ran.append("a function of the project"))
    if "undone" in asked:
        transaction.set_rollback(True)
    return HttpResponse("thanks")


ran: list[str] = []
urlpatterns = [path("order/", order)]


@pytest.fixture
def post(settings, monkeypatch) -> Callable[[str], HttpResponse]:
    """Orders by requests, each of which is one transaction."""
    ran.clear()
    settings.ROOT_URLCONF = __name__
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    return lambda query: Client().post(f"/order/?{query}")  # type: ignore[return-value] # a test's


@pytest.fixture(params=["explicit", "setting"])
def how(request, settings) -> str:
    """The query of an order that is published after the commit: as the call or the setting says."""
    settings.WS4REDIS_ON_COMMIT = request.param == "setting"
    return str(request.param)


@pytest.mark.parametrize("undone", [False, True])
def test_a_request_that_is_one_transaction(redis_client, post, how, undone):
    """It is published when that is committed, or never."""
    assert post(f"{how}&undone" if undone else how).status_code == 200
    assert User.objects.exists() is not undone
    assert redis_client.get("broadcast:foo") == (None if undone else b"saved")


@pytest.mark.parametrize("on_error", ["raise", "log"])
def test_a_committed_order_is_answered_without_redis(
    no_redis, settings, post, how, caplog, on_error
):
    """It is no error of the request's, and what else waits for the commit is done."""
    settings.WS4REDIS_ON_ERROR = on_error
    assert post(how).content == b"thanks"
    assert User.objects.get().username == "order"
    assert ran
    assert len(errors(caplog)) == 1


def test_the_setting_is_the_default(settings, redis_client):
    """A call may say otherwise, and without a transaction nothing waits."""
    settings.WS4REDIS_ON_COMMIT = True
    publisher = RedisPublisher(facility="foo", broadcast=True)
    with transaction.atomic():
        publisher.publish_message("late")
        publisher.pipeline_publish_message("later")
        assert redis_client.get("broadcast:foo") is None
        publisher.publish_message("at once", on_commit=False)
        assert redis_client.get("broadcast:foo") == b"at once"
        publisher.publish_message("named", using="default")
    assert redis_client.get("broadcast:foo") == b"named"
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"4"
    publisher.publish_message("without")
    assert redis_client.get("broadcast:foo") == b"without"
    with pytest.raises(ValueError, match="using='default' is for on_commit=True"):
        publisher.publish_message("x", using="default", on_commit=False)


async def test_asynchronous_code_waits_for_nothing(settings, redis_client):
    """Its thread has no transaction of its own, and the event loop no connection to a database."""
    settings.WS4REDIS_ON_COMMIT = True
    publisher = RedisPublisher(facility="foo", broadcast=True)
    await publisher.apublish_message("twin")
    assert redis_client.get("broadcast:foo") == b"twin"
    publisher.publish_message("in a coroutine")
    assert redis_client.get("broadcast:foo") == b"in a coroutine"
    given = type("Given", (RedisPublisher,), {"__init__": give(redis_client)})
    await given(facility="foo", broadcast=True).apublish_message("by a client")
    assert redis_client.get("broadcast:foo") == b"by a client"


def give(client) -> Callable[..., None]:
    """Return the ``__init__`` of a publisher that has a client of its own."""

    def init(self, **kwargs) -> None:
        RedisPublisher.__init__(self, **kwargs)
        self._connection = client

    return init


def test_the_publish_of_a_socket_does_not_wait(settings, redis_client):
    """Not even in a hook that has a transaction open, unless the hook says so."""
    settings.WS4REDIS_ON_COMMIT = True
    subscriber = RedisSubscriber()
    subscriber._publishers = {"broadcast:foo"}
    with transaction.atomic():
        subscriber.publish_message("at once")
        assert redis_client.get("broadcast:foo") == b"at once"
        subscriber.publish_message("saved", on_commit=True)
        assert redis_client.get("broadcast:foo") == b"at once"
    assert redis_client.get("broadcast:foo") == b"saved"


def test_a_program_without_a_database_publishes(redis_url, redis_client):
    """Nothing is connected to in order to find out that there is no transaction."""
    script = f"""if True:
        import django
        from django.conf import settings
        layer = "channels_ws4redis.layers.RedisChannelLayer"
        settings.configure(
            CHANNEL_LAYERS={{"default": {{"BACKEND": layer}}}},
            WS4REDIS_CONNECTION={redis_url!r}, WS4REDIS_ON_COMMIT=True,
        )
        django.setup()
        from channels_ws4redis.publisher import RedisPublisher
        RedisPublisher(facility="foo", broadcast=True).publish_message("saved")
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)
    assert redis_client.get("broadcast:foo") == b"saved"


def test_a_mistake_is_raised_at_once():
    """And not logged after the commit."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    with pytest.raises(ValueError, match="pass str"):
        publisher.publish_message(7, on_commit=True)
    with pytest.raises(ValueError, match="using='other' is for on_commit=True"):
        publisher.publish_message("x", using="other")
    with pytest.raises(ConnectionDoesNotExist, match="elsewhere"):
        publish(using="elsewhere")
