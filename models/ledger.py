"""Owns the face of the ledger: what a writer promises, and how operators' commands join a transaction of theirs.

What a batch reads and stores is `ledger_steps.py`; the request path's writers are `sqlite_ledger.py` and
`postgres_ledger.py`; the rules of money are `money.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tortoise.backends.base.client import TransactionalDBClient

from models import postgres_ledger, sqlite_ledger
from models.errors import DomainError
from models.ledger_steps import Steps, steps
from models.money import Book, Command, Outcome


class Ledger(Protocol):
    """Applies batches of commands, each batch in one durable commit."""

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        """The outcome of each command in order.

        Raises LedgerUnavailable when the database is away: then nobody knows whether the batch was stored, and it must be
        repeated, which is safe.
        """
        ...

    @property
    def asked_at(self) -> float | None:
        """Since when (monotonic) the database owes us an answer; None when it owes nothing."""
        ...

    def give_up(self) -> None:
        """Stop waiting for the database: what is being applied raises LedgerUnavailable."""
        ...

    async def close(self) -> None: ...


async def apply_in(transaction: TransactionalDBClient, commands: Sequence[Command]) -> list[Outcome]:
    """Apply inside an open transaction; the caller commits. Either database."""
    running = steps(Book(), commands)
    if transaction.capabilities.dialect == "postgres":
        connection: Any = transaction._connection
        return await postgres_ledger.drive(connection, running)
    return await _drive_sqlite(transaction, running)


async def apply_one(transaction: TransactionalDBClient, command: Command) -> Outcome:
    """Apply one command inside an open transaction; a refusal is raised."""
    outcome = (await apply_in(transaction, [command]))[0]
    if isinstance(outcome, DomainError):
        raise outcome
    return outcome


async def _drive_sqlite(transaction: TransactionalDBClient, running: Steps) -> list[Outcome]:
    rows: Sequence[Any] = []
    try:
        step = next(running)
        while True:
            for sql, values, many in sqlite_ledger.statements(step):
                if many:
                    text = sqlite_ledger.rows_statement(sql, len(values[0]), 1)
                    await transaction.execute_many(text, [list(row) for row in values])
                else:
                    rows = [tuple(row.values()) for row in await transaction.execute_query_dict(sql, list(values))]
            step = running.send(rows)
    except StopIteration as done:
        outcomes: list[Outcome] = done.value
        return outcomes
