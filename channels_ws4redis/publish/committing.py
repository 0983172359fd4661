"""Waiting for the transactions of the project's databases; a part of `redis_store`. Private."""

from __future__ import annotations

from collections.abc import Callable

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper


def after_commit(work: Callable[[], None], using: str | None = None) -> None:
    """Do some work once all open transactions have been committed; at once if there are none.

    If one of them is rolled back, the work is not done. No database is connected to for it: whoever
    publishes need not have one.

    :param work: must not raise, as nobody could do anything about it any more. Django logs what it
        raises all the same after a commit, and goes on with others that wait for it.
    :param using: the alias of the only database to wait for; by default that are all which are in a
        transaction in this thread.
    :raises django.db.transaction.TransactionManagementError: without autocommit and without
        ``atomic``, where Django does not know of the commit.
    """
    waiting = _waited_for(using)
    if not waiting:
        work()
        return

    def wait_for(alias: str) -> None:
        # No partial: Django names what has failed by its __qualname__, and would fail itself.
        def committed() -> None:
            waiting.discard(alias)
            if not waiting:
                work()

        transaction.on_commit(committed, using=alias, robust=True)

    for alias in sorted(waiting):
        wait_for(alias)


def _waited_for(using: str | None) -> set[str]:
    """Return the aliases of the databases that are in a transaction in this thread.

    Those that a ``TestCase`` keeps open around its tests do not count, as for Django's ``durable``:
    they never end, and a test asks with ``captureOnCommitCallbacks`` for one database at a time.
    Without any other, that of the default database does, for such a test to ask. A database that is
    named counts in any case.

    :param using: the alias of the only one that may count; None for all.
    """
    if using is not None:
        connection = connections[using]
        return {using} if connection.in_atomic_block or _is_manual(connection) else set()
    opened = connections.all(initialized_only=True)
    return {
        connection.alias
        for connection in opened
        if any(not _is_of_testcase(block) for block in connection.atomic_blocks)
        or _is_manual(connection)
    } or {each.alias for each in opened if each.alias == DEFAULT_DB_ALIAS and each.in_atomic_block}


def _is_manual(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether a transaction is open of which Django does not know when it ends."""
    opened = connection.connection is not None
    return opened and not connection.autocommit and not connection.in_atomic_block


def _is_of_testcase(block: transaction.Atomic) -> bool:
    # There is nothing public that tells.
    return bool(block._from_testcase)  # type: ignore[attr-defined] # not in the stubs
