"""The schema: made by migrations on both databases, with its indexes and the guards that the database itself keeps."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tortoise.exceptions import BaseORMException

from models.credits import grant
from models.database import Database, DatabaseUrl, open_database, parse_url
from models.records import Account
from models.schema import migrate, pending_migrations
from tests.models.shop import Shop

# Tortoise translates some of asyncpg's errors only.
REFUSED = (BaseORMException, asyncpg.PostgresError)
INDEXES = {
    "api_key_of_old_secret",
    "hold_late",
    "hold_open",
    "route_model",
    "session_of_user",
    "top_up_of_account",
    "top_up_of_payment",
    "transfer_of_credit",
    "transfer_of_debit",
    "transfer_once_per_grant_key",
    "transfer_once_per_request",
    "usage_day_of_account",
    "usage_day_of_day",
    "usage_of_account",
    "user_of_account",
    "voucher_of_batch",
}
GUARDS = {
    f"{table}_no_{verb}" for table in ("audit", "price", "price_cancelled", "transfer") for verb in ("delete", "update")
}
TRUNCATE_GUARDS = {f"{table}_no_truncate" for table in ("audit", "price", "price_cancelled", "transfer")}
UNIQUE = {
    "api_key": {("secret_hash",), ("old_secret_hash",)},
    "approval": {("grant_key",)},
    "invite": {("code_hash",)},
    "key_model": {("api_key_id", "model_id")},
    "limit": {("subject", "subject_id", "unit")},
    "model": {("alias",)},
    "payment_fact": {("payment_id", "kind", "object_id", "amount_cents")},
    "price": {("model_id", "effective_us")},
    "price_cancelled": {("price_id",)},
    "provider": {("name",)},
    "session": {("token_hash",)},
    "top_up": {("checkout_id",)},
    "transfer": {("request_id", "kind"), ("grant_key",)},
    "user": {("email",), ("reset_hash",)},
    "voucher": {("code_hash",)},
    "voucher_batch": {("name",)},
}


async def names(database: Database) -> tuple[set[str], set[str]]:
    """The indexes that somebody named, and the triggers."""
    if database.dialect == "sqlite":
        rows = await database.rows("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL")
        found = {kind: {r["name"] for r in rows if r["type"] == kind} for kind in ("index", "trigger")}
        return {name for name in found["index"] if not name.startswith("uid_")}, found["trigger"]
    indexes = await database.rows(
        "SELECT c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'public' AND NOT i.indisprimary AND NOT c.relispartition"
        " AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)"
    )
    triggers = await database.rows("SELECT tgname AS name FROM pg_trigger WHERE NOT tgisinternal")
    named = {row["name"] for row in indexes if not row["name"].startswith("uid_")}
    return named, {row["name"] for row in triggers}


async def unique_columns(database: Database, table: str) -> set[tuple[str, ...]]:
    if database.dialect == "sqlite":
        found = set()
        for index in await database.rows(f'PRAGMA index_list("{table}")'):
            if index["unique"] and index["origin"] != "pk":
                columns = await database.rows(f'PRAGMA index_info("{index["name"]}")')
                found.add(tuple(column["name"] for column in columns))
        return found
    rows = await database.rows(
        "SELECT array_agg(a.attname ORDER BY array_position(i.indkey::int[], a.attnum::int)) AS names FROM pg_index i"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)"
        " WHERE i.indrelid = ?::text::regclass AND i.indisunique AND NOT i.indisprimary GROUP BY i.indexrelid",
        [f'"{table}"'],
    )
    return {tuple(row["names"]) for row in rows}


async def test_migrations_make_exactly_these_indexes_and_guards(database: Database) -> None:
    indexes, triggers = await names(database)
    assert indexes == INDEXES
    assert triggers == GUARDS | (TRUNCATE_GUARDS if database.dialect == "postgres" else set())


async def test_what_must_be_unique_is_unique(database: Database) -> None:
    assert {table: await unique_columns(database, table) for table in UNIQUE} == UNIQUE


async def test_migrating_again_does_nothing(empty_url: DatabaseUrl) -> None:
    assert await migrate(empty_url) != []
    assert await migrate(empty_url) == []
    async with open_database(empty_url) as database:
        assert await pending_migrations(database) == []


async def test_two_first_migrations_at_once_both_succeed(empty_url: DatabaseUrl) -> None:
    names = "import asyncio, sys; from models.database import parse_url; from models.schema import migrate"
    program = f"{names}; asyncio.run(migrate(parse_url(sys.argv[1])))"
    both = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, empty_url.text, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    errors = [(await process.communicate())[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    async with open_database(empty_url) as database:
        assert await pending_migrations(database) == []
        assert await Account.filter(id__lt=1001).order_by("id").values_list("name", flat=True) == [
            "issued",
            "revenue",
            "writeoff",
            "cash",
        ]


@pytest.mark.parametrize("statement", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}"])
@pytest.mark.parametrize(
    ("table", "column"), [("transfer", "amount_nano"), ("price", "input_nano"), ("audit", "reason")]
)
async def test_the_database_refuses_to_rewrite_history(shop: Shop, statement: str, table: str, column: str) -> None:
    with pytest.raises(REFUSED, match="append-only"):
        await shop.database.connection.execute_query(statement.format(table=table, column=column))


async def test_postgres_refuses_to_empty_a_table_of_history(shop: Shop) -> None:
    if shop.database.dialect == "sqlite":
        return  # TRUNCATE is not a word there.
    with pytest.raises(REFUSED, match="append-only"):
        await shop.database.connection.execute_query("TRUNCATE transfer")


@pytest.mark.parametrize("values", ["balance_nano = -1", "held_nano = -1", "held_nano = balance_nano + 1"])
async def test_the_database_refuses_a_balance_below_zero_or_below_what_is_held(shop: Shop, values: str) -> None:
    with pytest.raises(REFUSED, match=r"(?i)check constraint"):
        await shop.database.connection.execute_query(f"UPDATE account SET {values} WHERE id = {shop.account_id}")


async def test_the_database_refuses_a_second_charge_or_grant(shop: Shop) -> None:
    insert = (
        "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, {0}) VALUES (1, 2, 1, ?, 1, ?)"
    )
    for column, kind, value in (
        ("request_id", "charge", "0190b5a8-0000-7000-8000-000000000001"),
        ("grant_key", "grant", "welcome"),
    ):
        query = shop.database.placed(insert.format(column))
        await shop.database.connection.execute_query(query, [kind, value])
        with pytest.raises(REFUSED, match=r"(?i)unique"):
            await shop.database.connection.execute_query(query, [kind, value])


@pytest.fixture
async def rebuilt(shop: Shop) -> Shop:
    """What a later migration does to `transfer` on SQLite: a new table under the old name, without what hung on it."""
    for kind in ("trigger", "index"):
        for name in sorted((await names(shop.database))[kind == "trigger"]):
            if name.startswith("transfer_"):
                on = " ON transfer" if kind == "trigger" and shop.database.dialect == "postgres" else ""
                await shop.database.connection.execute_query(f"DROP {kind} {name}{on}")
    return shop


async def test_a_rebuilt_table_gets_its_protections_back_with_the_next_migrate(rebuilt: Shop) -> None:
    await rebuilt.database.connection.execute_query("UPDATE transfer SET note = note")  # Nothing guards it now.
    await migrate(rebuilt.database.url)
    indexes, triggers = await names(rebuilt.database)
    assert indexes == INDEXES
    assert triggers >= GUARDS
    with pytest.raises(REFUSED, match="append-only"):
        await rebuilt.database.connection.execute_query("DELETE FROM transfer")


async def test_numbers_of_accounts_begin_above_the_system_accounts(shop: Shop) -> None:
    assert shop.account_id == 1001


async def test_writers_at_the_same_time_all_succeed(shop: Shop) -> None:
    """Two processes would do the same; here two databases are opened on one file or server."""

    async def give(number: int) -> Any:
        async with open_database(shop.database.url) as other:
            for n in range(5):
                await grant(other, f"writer {number}", "ada@example.com", 1, "test", f"{number}-{n}")

    await asyncio.gather(*(give(number) for number in range(4)))
    account = await Account.get(id=shop.account_id)
    assert account.balance_nano == 1_000 * 10**9 + 20


async def test_hot_tables_are_stored_as_measured(database: Database) -> None:
    if database.dialect == "sqlite":
        return  # It knows no such settings.
    rows = await database.rows(
        "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
    )
    found = {row["relname"]: dict(option.split("=") for option in row["reloptions"]) for row in rows}
    assert set(found) == {"account", "hold"}
    assert found["account"]["fillfactor"] == "50"
    assert found["hold"]["autovacuum_vacuum_scale_factor"] == "0.02"


async def test_the_tables_are_those_of_the_records(database: Database, empty_url: DatabaseUrl, tmp_path: Path) -> None:
    """What the ORM would create by itself has the same columns, types aside, and the same of them may be empty."""

    async def columns(of: Database) -> set[tuple[str, str, bool]]:
        if of.dialect == "sqlite":
            query = (
                'SELECT m.name AS "table", c.name AS "column", NOT c."notnull" AS empty FROM sqlite_master m,'
                " pragma_table_info(m.name) c WHERE m.type = 'table'"
            )
        else:
            query = (
                'SELECT table_name AS "table", column_name AS "column", is_nullable = \'YES\' AS empty'
                " FROM information_schema.columns WHERE table_schema = 'public'"
            )
        found = await of.rows(query)
        return {(row["table"], row["column"], bool(row["empty"])) for row in found if row["table"] in records}

    records = {model._meta.db_table for model in database.context.apps.get_models_iterable()}
    migrated = await columns(database)
    bare = parse_url(f"sqlite://{tmp_path}/bare.db") if database.dialect == "sqlite" else empty_url
    async with open_database(bare, create=True) as other:
        await other.context.generate_schemas(safe=False)
        assert await columns(other) == migrated
