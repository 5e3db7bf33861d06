"""The operators' role on a real PostgreSQL: the server refuses what rewrites history. Its verbs: `test_every_write.py`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from models.database import open_database, parse_url
from models.errors import BadInput, MissingRights
from models.roles import RIGHTS, make_operator_role, operator_role
from tests.ops.writes import tables
from tests.rig import ROOT
from tests.stores import SECRET_KEY, Sql

postgres_only = pytest.mark.parametrize("dialect", ["postgres"], indirect=True)
HISTORY = ("transfer", "price", "price_cancelled", "audit")
FORBIDDEN = [
    *(f"UPDATE {table} SET id = id" for table in HISTORY),
    "UPDATE transfer SET amount_nano = 1",
    *(f"DELETE FROM {table}" for table in HISTORY),
    *(f"TRUNCATE {table}" for table in HISTORY),
    *(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in HISTORY),
    *(f"DROP TRIGGER {table}_no_update ON {table}" for table in HISTORY),
    *(f"DROP TABLE {table}" for table in HISTORY),
    "ALTER TABLE account ADD COLUMN more int",
    "DROP INDEX transfer_once_per_grant_key",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE audit (id int)",
    "CREATE SCHEMA mine",
    "SET session_replication_role = replica",
    "SELECT setval('transfer_id_seq', 1)",
    "UPDATE approval SET amount_nano = 1",
    "UPDATE account SET id = 7 WHERE id = 1001",
    "DELETE FROM account",
    "DELETE FROM hold",
    "INSERT INTO usage SELECT * FROM usage",
    "CREATE ROLE another",
]


def test_every_table_says_what_operators_may_do_to_it() -> None:
    """A new table gets a line in `models/roles.py`."""
    assert set(RIGHTS) == set(tables())


@postgres_only
def test_the_server_refuses_what_rewrites_history(limited_address: str) -> None:
    with Sql(limited_address) as sql:
        assert sql.value("SELECT COUNT(*) FROM transfer") == 1
        for statement in FORBIDDEN:
            with pytest.raises(Exception, match=r"permission denied|must be owner") as refusal:
                sql.rows(statement)
            assert refusal.value.sqlstate == "42501", statement  # type: ignore[attr-defined]


@postgres_only
def test_the_server_ends_a_transaction_that_an_operator_forgot(limited_address: str) -> None:
    """Its locks would keep an account, and with it everybody's settlements, until somebody noticed."""
    with Sql(limited_address) as sql:
        assert sql.value("SHOW idle_in_transaction_session_timeout") == "10s"


@postgres_only
def test_made_again_the_role_can_do_no_more_than_before(limited_address: str, address: str) -> None:
    name = limited_address.partition("://")[2].partition(":")[0]
    with Sql(address) as owner:
        owner.rows(f"GRANT UPDATE, DELETE ON price TO {name}")
        asyncio.run(_make(address, name))
        assert not owner.value(f"SELECT has_table_privilege('{name}', 'price', 'UPDATE, DELETE')")
        # Tables of a later migration can be read at once.
        owner.rows("CREATE TABLE later (id int)")
    with Sql(limited_address) as sql:
        assert sql.rows("SELECT * FROM later") == []


@postgres_only
def test_a_role_that_could_do_more_all_the_same_is_refused(limited_address: str, address: str) -> None:
    name = limited_address.partition("://")[2].partition(":")[0]
    with Sql(address) as owner:
        user = owner.value("SELECT current_user")
        with pytest.raises(MissingRights, match=r"superuser|owning"):
            asyncio.run(_make(address, user))
        owner.rows(f"GRANT pg_write_all_data TO {name}")
        with pytest.raises(MissingRights, match="rewrite history"):
            asyncio.run(_make(address, name))
        owner.rows(f"REVOKE pg_write_all_data FROM {name}")
    with pytest.raises(MissingRights, match="owner"):
        asyncio.run(_make(limited_address, "operator_of_an_operator"))


async def _make(address: str, name: str) -> None:
    async with open_database(parse_url(address), pool=1) as database:
        await make_operator_role(database, name)


@pytest.mark.parametrize("name", ["", "Olga", "o'lga", 'x"; DROP TABLE audit', "pg_read", "public", "x" * 64])
def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as refusal:
        operator_role(parse_url("postgres://host/gateway"), name)
    assert refusal.value.field == "name"
    with pytest.raises(BadInput, match="SQLite"):
        operator_role(parse_url("sqlite://gateway.db"), "olga")


@postgres_only
def test_the_command_prints_what_it_would_do_and_does_it_when_told(limited_address: str, address: str) -> None:
    name = limited_address.partition("://")[2].partition(":")[0]
    with Sql(address) as owner:
        owner.rows(f"REVOKE INSERT ON transfer FROM {name}")
        printed = _command(address, name)
        assert f'GRANT INSERT ON "transfer" TO {name};' in printed
        assert not owner.value(f"SELECT has_table_privilege('{name}', 'transfer', 'INSERT')")
        assert "role for operators" in _command(address, name, "--apply")
        assert owner.value(f"SELECT has_table_privilege('{name}', 'transfer', 'INSERT')")


def _command(address: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "operator-role", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "GATEWAY_DATABASE_URL": address, "GATEWAY_SECRET_KEY": SECRET_KEY},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout
