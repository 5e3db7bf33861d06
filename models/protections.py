"""Owns what the database itself enforces on the ledger: append-only rows, idempotency keys, and the indexes reads need.

Applied at the end of every `migrate`, whether or not a migration ran: SQLite drops a table's triggers and indexes when
it rebuilds the table, and an idempotency key that silently vanished would let a charge be taken twice.
"""

from __future__ import annotations

from tortoise.backends.base.client import BaseDBAsyncClient

# Settled within this time after it began, a request's day of settlement is known from its own time almost always. What took
# longer is rare (a spool that was replayed, a worker that was frozen, a clock that was set), and has an index.
GRACE_US = 900_000_000
LATE = f"h.ended_us - h.at_us NOT BETWEEN 0 AND {GRACE_US}"

INDEXES = {
    "transfer_once_per_request": "UNIQUE INDEX {name} ON transfer (request_id, kind) WHERE request_id IS NOT NULL",
    "transfer_once_per_grant_key": "UNIQUE INDEX {name} ON transfer (grant_key) WHERE grant_key IS NOT NULL",
    # An account's charges are read through its usage records, one each; leaving them out keeps these two indexes, which
    # scatter over a page per account, off the request path.
    "transfer_of_debit": "INDEX {name} ON transfer (debit_account, id) WHERE kind <> 'charge'",
    "transfer_of_credit": "INDEX {name} ON transfer (credit_account, id) WHERE kind <> 'charge'",
    "hold_open": "INDEX {name} ON hold (epoch_id, request_id) WHERE status = 'open'",
    "hold_late": f"INDEX {{name}} ON hold (account_id, ended_us) WHERE {LATE.replace('h.', '')}",
    "usage_of_account": "INDEX {name} ON usage (account_id, request_id)",
    "api_key_of_old_secret": "UNIQUE INDEX {name} ON api_key (old_secret_hash) WHERE old_secret_hash IS NOT NULL",
    # Each row of a usage report looks up its account's first login.
    "user_of_account": 'INDEX {name} ON "user" (account_id, id)',
}
APPEND_ONLY = ("transfer", "price", "price_cancelled", "audit")

_SQLITE_GUARD = """
    CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON "{table}"
    BEGIN SELECT RAISE(ABORT, '{table} rows are append-only: write a new row that corrects the old one'); END"""
_POSTGRES_FUNCTION = """
    CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% rows are append-only: write a new row that corrects the old one', TG_TABLE_NAME;
    END $$"""
_POSTGRES_GUARD = """
    CREATE OR REPLACE TRIGGER {table}_no_{verb} BEFORE {verb} ON "{table}"
    FOR EACH {each} EXECUTE FUNCTION refuse_change()"""


def triggers(dialect: str) -> dict[str, str]:
    """Name → statement of every guard. TRUNCATE exists on PostgreSQL only."""
    verbs = {"update": "ROW", "delete": "ROW"} | ({"truncate": "STATEMENT"} if dialect == "postgres" else {})
    template = _POSTGRES_GUARD if dialect == "postgres" else _SQLITE_GUARD
    return {
        f"{table}_no_{verb}": template.format(table=table, verb=verb, each=each)
        for table in APPEND_ONLY
        for verb, each in verbs.items()
    }


async def protect(connection: BaseDBAsyncClient) -> None:
    """Create what is missing of the indexes and triggers. Safe to repeat."""
    dialect = connection.capabilities.dialect
    for name, text in INDEXES.items():
        kind, _, rest = text.format(name=name).partition(f"INDEX {name}")
        await connection.execute_script(f"CREATE {kind}INDEX IF NOT EXISTS {name}{rest}")
    if dialect == "postgres":
        await connection.execute_script(_POSTGRES_FUNCTION)
    for statement in triggers(dialect).values():
        await connection.execute_script(statement)
