"""Owns the database role of operators on PostgreSQL: all that the desk's verbs need, and nothing that rewrites history.

Such a role can read everything and do every verb of `ops`. It can neither change nor remove a transfer, a price version or
an audit row, nor create, alter or drop anything, nor switch a trigger off: the server refuses it, whatever a notebook says.
Give each operator one of their own. `gateway migrate`, `drop-usage` and the server itself need the role that owns the tables.
After a migration that makes tables, run the command again; until then the new ones can be read only.
"""

from __future__ import annotations

import re
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from models.altering import NO_RIGHTS, sqlstate
from models.database import Database, DatabaseUrl, postgres_options
from models.errors import BadInput, MissingRights
from models.protections import APPEND_ONLY

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Beyond reading. What is not named here is for the server to write.
RIGHTS = {
    "account": "INSERT, UPDATE (name, balance_nano, held_nano, suspended_us)",
    "api_key": "INSERT, UPDATE",
    "approval": "INSERT, UPDATE (decision, decided_by, decided_us, decided_reason)",
    "audit": "INSERT",
    "change": "INSERT",
    "epoch": "",
    "hold": "",
    "invite": "INSERT, UPDATE",
    "key_model": "INSERT, DELETE",
    "limit": "INSERT, UPDATE, DELETE",
    "model": "INSERT, UPDATE",
    "payment_fact": "",
    "price": "INSERT",
    "price_cancelled": "INSERT",
    "provider": "INSERT, UPDATE",
    "quarantine": "UPDATE (closed_us)",
    "route": "INSERT, UPDATE",
    "session": "UPDATE",
    "top_up": "",
    "transfer": "INSERT",
    "usage": "",
    "usage_day": "",
    "usage_rollup": "",
    "user": "INSERT, UPDATE",
    "voucher": "INSERT, UPDATE",
    "voucher_batch": "INSERT",
}


def operator_role(url: DatabaseUrl, name: str) -> list[str]:
    """The statements that make `name` an operators' role, or one again. Safe to repeat; to be run by the tables' owner.

    Raises BadInput for a name that would need quotes, and on SQLite, which has no roles.
    """
    if url.dialect != "postgres":
        raise BadInput(
            "GATEWAY_DATABASE_URL: SQLite has no roles; its file's permissions say who may write", field="name"
        )
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("pg_") or name == "public":
        raise BadInput(f"name: {name!r} is no plain name of a role; write it like operators or olga", field="name")
    database = postgres_options(url)["database"].replace('"', '""')
    return [
        f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{name}') THEN CREATE ROLE {name} LOGIN"
        " NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; END IF; END $$",
        # A transaction that somebody forgot to end would keep an account's row, and everybody's settlements wait behind it.
        f"ALTER ROLE {name} SET idle_in_transaction_session_timeout = '10s'",
        # Everybody may make temporary tables, and before PostgreSQL 15 lasting ones too, unless that is taken away.
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON SCHEMA public TO %I', current_user); END $$",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f'REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC',
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, {name}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM PUBLIC, {name}",
        f'REVOKE ALL ON DATABASE "{database}" FROM {name}',
        f"REVOKE ALL ON SCHEMA public FROM {name}",
        f'GRANT CONNECT ON DATABASE "{database}" TO {name}',
        f"GRANT USAGE ON SCHEMA public TO {name}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {name}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}",
        *(f'GRANT {rights} ON "{table}" TO {name}' for table, rights in RIGHTS.items() if rights),
    ]


async def make_operator_role(database: Database, name: str) -> None:
    """Run the statements of `operator_role`, in one transaction, and see that they suffice.

    Raises MissingRights when this role may not do that, or when `name` could do more all the same (it owns the tables, is a
    superuser, or belongs to a role that may); nothing is changed then.
    """
    statements = operator_role(database.url, name)
    async with database.transaction() as transaction:
        try:
            for statement in statements:
                await transaction.execute_query(statement)
        except Exception as error:
            if sqlstate(error) != NO_RIGHTS:
                raise
            raise MissingRights(
                f"this database role may not make roles or grant on these tables: {error}; run it as their owner, "
                "with CREATEROLE"
            ) from error
        excess = await _excess(transaction, name)
        if excess:
            raise MissingRights(f"{name} could still {', '.join(excess)}; take that away first, or choose another name")


async def _excess(connection: BaseDBAsyncClient, name: str) -> list[str]:
    """What the role may do that it should not, by whatever way it came to that."""
    guarded = ", ".join(f"('{table}')" for table in APPEND_ONLY)
    queries = {
        "do anything, being a superuser": "SELECT 1 FROM pg_roles WHERE rolname = $1 AND rolsuper",
        "make roles or databases": "SELECT 1 FROM pg_roles WHERE rolname = $1 AND (rolcreaterole OR rolcreatedb)",
        "alter tables, owning them": "SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND pg_has_role($1::name, relowner, 'MEMBER') LIMIT 1",
        "create in the schema": "SELECT 1 WHERE has_schema_privilege($1::name, 'public', 'CREATE')",
        "create in the database": "SELECT 1 WHERE has_database_privilege($1::name, current_database(), 'CREATE, TEMPORARY')",
        "rewrite history": f"SELECT 1 FROM (VALUES {guarded}) t (name)"
        " WHERE has_table_privilege($1::name, t.name, 'UPDATE, DELETE, TRUNCATE, TRIGGER')"
        " OR has_any_column_privilege($1::name, t.name, 'UPDATE') LIMIT 1",
    }
    found = []
    for what, query in queries.items():
        rows: list[dict[str, Any]] = await connection.execute_query_dict(query, [name])
        if rows:
            found.append(what)
    return found
