"""Publishing after the commit: of which database, and what happens if Redis is gone by then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist

from channels_ws4redis.publisher import RedisPublisher

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


def test_without_a_transaction_it_is_published_at_once(other, redis_client):
    """So it can stand wherever a model is saved."""
    publish()
    assert redis_client.get("broadcast:foo") == b"saved"
    publish("again", using=other)
    assert redis_client.get("broadcast:foo") == b"again"


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


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_redis_that_is_gone_fails_nothing(settings, free_port, caplog, in_transaction):
    """What is committed stays so: the failure is logged, and all others get their turn."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    ran = []
    with transaction.atomic() if in_transaction else ExitStack():
        publish()
        transaction.on_commit(lambda: ran.append("a function of the project"))
    assert ran
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "'broadcast:foo' is not published" in record.getMessage()
    assert str(free_port) in record.getMessage()


def test_a_mistake_is_raised_at_once():
    """And not logged after the commit."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    with pytest.raises(ValueError, match="pass str"):
        publisher.publish_message(7, on_commit=True)
    with pytest.raises(ValueError, match="using='other' is for on_commit=True"):
        publisher.publish_message("x", using="other")
    with pytest.raises(ConnectionDoesNotExist, match="elsewhere"):
        publish(using="elsewhere")
