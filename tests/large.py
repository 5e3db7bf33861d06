"""Owns filling a PostgreSQL database with millions of requests, as if the gateway had served them: every invariant holds;
and keeping a ledger busy meanwhile.

The server makes the rows itself from `generate_series`, in pieces of their own commit; nothing passes through Python.
The prices are of every kind (plain, with tiers, with a window), and each charge is worked out here once more, in SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable

from models.accounts import create_account, find_account
from models.catalog import add_model, add_provider
from models.database import Database, open_database, parse_url
from models.ids import DAY_US, new_request_id, now_us
from models.keys import issue_key
from models.ledger import apply_one
from models.money import Capture, Place
from models.months import month_of
from models.partitions import make_partitions
from models.price_list import publish_price
from models.price_terms import price_from_usd
from models.prices import NANO_PER_CREDIT
from models.records import Epoch, Price
from models.routes import add_route
from models.secrets import Seal

LONG = bool(os.environ.get("LONG"))
REQUESTS = 10_000_000 if LONG else 1_000_000
MONTHS = 12
OPERATOR = "olga"
PIECE = 250_000
PLAIN = price_from_usd(input_usd="0.27", cached_input_usd="0.07", output_usd="1.10")
TIERED = price_from_usd(
    input_usd="1.25", output_usd="10", tiers=[{"above_tokens": 2_000, "input_usd": "2.5", "output_usd": "15"}]
)
WINDOWED = price_from_usd(
    input_usd="0.5", output_usd="2", windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.2", "output_usd": "1"}]
)
TERMS = {"plain-chat": PLAIN, "tiered-chat": TIERED, "windowed-chat": WINDOWED}

# One row per request. A number decides everything about it, so that a database can be filled again exactly alike.
_REQUESTS = """
    CREATE TEMP TABLE request ON COMMIT DROP AS
    SELECT *, fresh * CASE model WHEN 0 THEN 27000
                                 WHEN 1 THEN CASE WHEN fresh + cached > 2000 THEN 250000 ELSE 125000 END
                                 ELSE CASE WHEN minute >= 990 OR minute < 30 THEN 20000 ELSE 50000 END END
            + cached * CASE model WHEN 0 THEN 7000
                                  WHEN 1 THEN CASE WHEN fresh + cached > 2000 THEN 250000 ELSE 125000 END
                                  ELSE CASE WHEN minute >= 990 OR minute < 30 THEN 20000 ELSE 50000 END END
            + output * CASE model WHEN 0 THEN 110000
                                  WHEN 1 THEN CASE WHEN fresh + cached > 2000 THEN 1500000 ELSE 1000000 END
                                  ELSE CASE WHEN minute >= 990 OR minute < 30 THEN 100000 ELSE 200000 END END AS charge
    FROM (
        SELECT n, at_us, at_us / 60000000 % 1440 AS minute, n % 3 AS model,
               CASE WHEN n % 500 < 50 THEN 0 ELSE 1 + (n + n / 500) % ({accounts} - 1) END AS customer,
               (lpad(to_hex(at_us / 1000), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid
                   AS id,
               CASE WHEN n % 50 = 7 THEN 'failed' WHEN n % 100 = 9 THEN 'left' ELSE 'served' END AS outcome,
               CASE WHEN n % 50 = 7 THEN 0 ELSE 100 + n * 7919 % 3000 END AS fresh,
               CASE WHEN n % 50 = 7 THEN 0 ELSE n * 104729 % 500 END AS cached,
               CASE WHEN n % 50 = 7 THEN 0 ELSE 1 + n * 1299709 % 800 END AS output
        FROM (SELECT n, md5(n::text) AS hash, {first_us} + n * {step_us} AS at_us
              FROM generate_series({low}::bigint, {high}::bigint) n) numbers
    ) meters"""
_HOLDS = """
    INSERT INTO hold (request_id, account_id, amount_nano, status, price_id, epoch_id, at_us, ended_us)
    SELECT id, {account} + customer, charge + 5000000, CASE outcome WHEN 'failed' THEN 'released' ELSE 'captured' END,
           ({prices}::bigint[])[model + 1], {epoch}, at_us, at_us + 900000 FROM request ORDER BY n"""
_TRANSFERS = """
    INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, request_id)
    SELECT {account} + customer, 2, charge, 'charge', at_us + 900000, id FROM request WHERE charge > 0 ORDER BY n"""
_USAGE = """
    INSERT INTO usage
    SELECT id, at_us, {account} + customer, {key} + CASE n % 100000 WHEN 17 THEN {accounts} ELSE customer END,
           ({models}::bigint[])[model + 1], {route} + model, ({prices}::bigint[])[model + 1], outcome, n % 2 = 0,
           outcome = 'left', fresh, cached, 0, output, 250, 900, charge / 2,
           '[{{"route": 1, "status": 200, "ms": 900}}]', charge, 0 FROM request ORDER BY n"""
_ACCOUNTS = """
    UPDATE account SET balance_nano = balance_nano - spent.nano
    FROM (SELECT debit_account, SUM(amount_nano) AS nano FROM transfer WHERE kind = 'charge' GROUP BY 1) spent
    WHERE id = spent.debit_account"""


async def fill(
    database: Database,
    requests: int,
    *,
    months: int = 12,
    accounts: int = 1_000,
    until_us: int | None = None,
    told: Callable[[int], None] | None = None,
) -> None:
    """Fill a migrated, otherwise empty database with `requests`, spread evenly over `months` up to now, or to `until_us`.

    Of a hundred requests two failed, one client left, and the others were served. The first account made a tenth of all
    and has a second key, which it used once in ten thousand of its requests; the others share the rest evenly. Ends with
    VACUUM and ANALYZE, as a database that grew slowly would look.
    """
    until_us = now_us() if until_us is None else until_us
    first = month_of(until_us - 1).plus(1 - months)
    for n in range(months):
        await make_partitions(database, first.plus(n).start_us)
    numbers = await _stock(database, accounts, first.start_us)
    numbers["step_us"] = str((until_us - DAY_US // 24 - first.start_us) // requests)
    for low in range(0, requests, PIECE):
        piece = numbers | {"low": str(low), "high": str(min(low + PIECE, requests) - 1)}
        async with database.transaction() as transaction:
            for statement in (_REQUESTS, _HOLDS, _TRANSFERS, _USAGE):
                await transaction.execute_query(statement.format(**piece))
        if told is not None:
            told(min(low + PIECE, requests))
    await database.connection.execute_query(_ACCOUNTS)
    for table in ("account", "hold", "transfer", "usage"):
        await database.connection.execute_query(f"VACUUM ANALYZE {table}")


async def _stock(database: Database, accounts: int, since_us: int) -> dict[str, str]:
    """A small catalog and many customers with credits; returns what the statements fill in."""
    await add_provider(database, OPERATOR, "acme", base_url="https://acme.test/v1", api_key="x", seal=Seal("secret"))
    models, routes, prices = [], [], []
    for alias, terms in TERMS.items():
        model = await add_model(database, OPERATOR, alias, context_tokens=64_000, max_output_tokens=8_192)
        models.append(model.id)
        routes.append((await add_route(database, OPERATOR, alias, provider="acme", upstream_model=alias)).id)
        await publish_price(database, OPERATOR, alias, terms, reason="list")
        # A price cannot be dated back, so its twin is written down as of the first request.
        row = await Price.get(model_id=model.id)
        twin = {name: getattr(row, name) for name in row._meta.db_fields if name not in ("id", "effective_us")}
        prices.append((await Price.create(**twin, effective_us=since_us)).id)
    await create_account(database, OPERATOR, "customer-0@example.com")
    await issue_key(database, OPERATOR, "customer-0@example.com", name="k", models=list(TERMS))
    first = (await find_account(database, "customer-0@example.com")).id
    key = (await database.rows("SELECT id FROM api_key"))[0]["id"]
    many = f"generate_series(1, {accounts - 1}) n"
    for statement in (
        f"INSERT INTO account (name, created_us) SELECT 'customer-' || n || '@example.com', 1 FROM {many}",
        f"INSERT INTO \"user\" (account_id, email, created_us) SELECT {first} + n, 'customer-' || n || '@example.com', 1"
        f" FROM {many}",
        "INSERT INTO api_key (account_id, name, secret_hash, hint, created_us)"
        f" SELECT {first} + n, 'k', md5(n::text), 'h', 1 FROM {many}",
        "INSERT INTO api_key (account_id, name, secret_hash, hint, created_us)"
        f" VALUES ({first}, 'rare', md5('rare'), 'h', 1)",
        f"INSERT INTO key_model (api_key_id, model_id) SELECT k.id, m.id FROM api_key k, model m WHERE k.id > {key}",
        "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, grant_key)"
        f" SELECT 1, {first} + n, {10**9 * NANO_PER_CREDIT // 1000}, 'grant', 1, 'fill-' || n"
        f" FROM generate_series(0, {accounts - 1}) n",
        f"UPDATE account SET balance_nano = {10**9 * NANO_PER_CREDIT // 1000} WHERE id >= {first}",
    ):
        await database.connection.execute_query(statement)
    epoch = await Epoch.create(machine="here", pid=1, started_us=1, heartbeat_us=1, ended_us=2)
    return {
        "accounts": str(accounts),
        "account": str(first),
        "key": str(key),
        "route": str(routes[0]),
        "models": f"ARRAY{models}",
        "prices": f"ARRAY{prices}",
        "epoch": str(epoch.id),
        "first_us": str(since_us),
    }


@contextlib.asynccontextmanager
async def served(url: str) -> AsyncIterator[list[float]]:
    """The ledger settles one request after the other meanwhile; the seconds that each took."""
    took: list[float] = []
    stop = asyncio.Event()

    async def go_on() -> None:
        async with open_database(parse_url(url), pool=1) as database:
            query = "SELECT a.id AS account, p.id AS price, p.model_id AS model FROM account a, price p"
            row = (await database.rows(f"{query} WHERE a.id > 1000 ORDER BY 1, 2 LIMIT 1"))[0]
            key = (await database.rows("SELECT MIN(id) AS id FROM api_key"))[0]["id"]
            while not stop.is_set():
                started, at_us = time.monotonic(), now_us()
                id_ = new_request_id(at_us)
                usage = (id_, at_us, row["account"], key, row["model"], 1, row["price"], "served")
                usage += (False, False, 0, 0, 0, 0, 1, 1, 0, "[]")
                async with database.transaction() as transaction:
                    await apply_one(transaction, Place(id_, row["account"], 5, 5, row["price"], 1, at_us))
                    await apply_one(transaction, Capture(id_, row["account"], 0, at_us, usage))
                took.append(time.monotonic() - started)
                await asyncio.sleep(0.002)

    serving = asyncio.create_task(go_on())
    try:
        yield took
    finally:
        stop.set()
        await serving
