"""An archive for the gateway of the benchmark: millions of past requests of an account of their own, by plain bulk SQL.

Each is what the ledger would have left: a captured hold, a charge, a usage record; `gateway reconcile` holds with them.
They lie in the current month, evenly from its first moment until now: where the database keeps months apart, new requests
go to the fullest of them.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import asyncpg

from tests.bench.rounds import tell

CHUNK = 500_000
FRESH_TOKENS, OUTPUT_TOKENS = 17, 24
SPARE_NANO = 10**9
# A UUIDv7 made of its moment and its number, so that each of the three tables can be filled by itself.
REQUEST_ID = (
    "(lpad(to_hex({ms}), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid"
)
FILLS = [
    "INSERT INTO hold (request_id, account_id, amount_nano, status, price_id, epoch_id, at_us, ended_us)"
    " SELECT {id}, {account_id}, {charge_nano} * 10, 'captured', {price_id}, 0, {ms} * 1000, {ms} * 1000 + 5000 {rows}",
    "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, request_id)"
    " SELECT {account_id}, 2, {charge_nano}, 'charge', {ms} * 1000 + 5000, {id} {rows}",
    "INSERT INTO usage (request_id, at_us, account_id, key_id, model_id, route_id, price_id, outcome, streamed, estimated,"
    " fresh_tokens, cached_tokens, cache_write_tokens, output_tokens, first_byte_ms, total_ms, cost_nano, attempts,"
    " charge_nano, writeoff_nano) SELECT {id}, {ms} * 1000, {account_id}, {key_id}, {model_id}, {route_id}, {price_id},"
    " 'served', false, false, {fresh}, 0, 0, {output}, 4, 5, 0,"
    """ '[{{"route":{route_id},"status":200,"ms":4,"cost_nano":0}}]', {charge_nano}, 0 {rows}""",
]


def fill_archive(database_url: str, rows: int) -> None:
    started = time.monotonic()
    asyncio.run(fill(database_url, rows))
    tell(f"{rows:,} past requests stand in the tables after {time.monotonic() - started:.0f} s")


async def fill(database_url: str, rows: int) -> None:
    connections = [await asyncpg.connect(database_url) for _ in FILLS]
    try:
        values = await open_account(connections[0], rows)
        for first in range(0, rows, CHUNK):
            last = min(rows, first + CHUNK)
            numbers = f"FROM generate_series({first}::bigint, {last - 1}::bigint) AS n"
            statements = (statement.format(**values, rows=numbers) for statement in FILLS)
            await asyncio.gather(*map(asyncpg.Connection.execute, connections, statements))
            tell(f"archive: {last:,} of {rows:,} rows")
        # What a database that grew up to this size would have behind it already.
        for statement in ("VACUUM (ANALYZE) hold", "VACUUM (ANALYZE) transfer", "VACUUM (ANALYZE) usage", "CHECKPOINT"):
            await connections[0].execute(statement)
    finally:
        for connection in connections:
            await connection.close()


async def open_account(connection: Any, rows: int) -> dict[str, Any]:
    """An account with a key, a price that was in force before all of its requests, and a balance after all of them."""
    route = await connection.fetchrow(
        "SELECT r.id, r.model_id, p.input_nano, p.output_nano FROM route r JOIN price p ON p.model_id = r.model_id"
        " JOIN model m ON m.id = r.model_id WHERE m.alias = 'bench-instant'"
    )
    price_id = await connection.fetchval(
        "INSERT INTO price (model_id, effective_us, input_nano, cached_input_nano, cache_write_nano, output_nano, schedule,"
        " operator, reason, created_us) SELECT model_id, 0, input_nano, cached_input_nano, cache_write_nano, output_nano,"
        " schedule, operator, reason, 0 FROM price WHERE model_id = $1 RETURNING id",
        route["model_id"],
    )
    charge_nano = FRESH_TOKENS * route["input_nano"] + OUTPUT_TOKENS * route["output_nano"]
    account_id = await connection.fetchval(
        "INSERT INTO account (name, balance_nano, created_us) VALUES ('archive', $1, 0) RETURNING id", SPARE_NANO
    )
    await connection.execute(
        "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, grant_key)"
        " VALUES (1, $1, $2, 'grant', 0, 'archive')",
        account_id,
        SPARE_NANO + rows * charge_nano,
    )
    key_id = await connection.fetchval(
        "INSERT INTO api_key (account_id, name, secret_hash, hint, created_us) VALUES ($1, 'archive', 'none', '', 0)"
        " RETURNING id",
        account_id,
    )
    await connection.execute("INSERT INTO key_model (api_key_id, model_id) VALUES ($1, $2)", key_id, route["model_id"])
    now = datetime.now(UTC)
    month_ms = int(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
    ms = f"({month_ms} + n * {int(now.timestamp() * 1000) - month_ms - 60_000} / {rows})"
    return {
        "id": REQUEST_ID.format(ms=ms),
        "ms": ms,
        "account_id": account_id,
        "charge_nano": charge_nano,
        "price_id": price_id,
        "key_id": key_id,
        "model_id": route["model_id"],
        "route_id": route["id"],
        "fresh": FRESH_TOKENS,
        "output": OUTPUT_TOKENS,
    }
