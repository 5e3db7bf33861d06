"""Owns price versions as records: publishing a dated one, reading which is in force. Pure prices are in `prices.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from models.catalog import find_model
from models.changes import CATALOG, operator_write
from models.checks import check_reason, check_whole
from models.database import Database
from models.errors import BadInput, Conflict
from models.ids import now_us, to_datetime
from models.price_terms import check_price
from models.prices import PriceVersion, price_from_row, schedule_to_json
from models.records import Price

_COLUMNS = "p.id, p.effective_us, p.input_nano, p.cached_input_nano, p.cache_write_nano, p.output_nano, p.schedule"


async def publish_price(
    database: Database,
    operator: str,
    model: str,
    price: PriceVersion,
    *,
    reason: str,
    effective_us: int | None = None,
    last_seen_id: int | None = None,
) -> PriceVersion:
    """A new price version of the alias from `effective_us` on (None: from now). Nothing published ever changes.

    `last_seen_id` is the newest version that the operator had seen (0: none); Conflict when there is a newer one.
    """
    why = check_reason(reason)
    check_price(price)
    if effective_us is not None:
        check_whole(effective_us, field="effective_from", least=0)
    async with operator_write(database, operator) as write:
        alias = await find_model(model)
        newest = await Price.filter(model_id=alias.id).order_by("-id").first()
        if last_seen_id is not None and last_seen_id != (newest.id if newest else 0):
            raise Conflict(f"price: {alias.alias} got another price meanwhile; propose again", field="price")
        moment = await _moment(database, alias.id, effective_us)
        base = price.tiers[0].rates
        before = await price_at(database, alias.alias, moment)
        values: dict[str, Any] = {
            "effective_us": moment,
            "input_nano": base.fresh,
            "cached_input_nano": base.cached,
            "cache_write_nano": base.written,
            "output_nano": base.output,
            "schedule": schedule_to_json(price),
        }
        row = await Price.create(
            **values, model_id=alias.id, operator=write.operator, reason=why, created_us=write.at_us
        )
        await write.changed(CATALOG)
        await write.audit(
            "price.publish",
            f"model {alias.alias}",
            reason=why,
            before=None if before is None else msgspec.to_builtins(before),
            after={"id": row.id, **values},
        )
    return msgspec.structs.replace(price, id=row.id, effective_us=moment)


async def price_at(database: Database, model: str, at_us: int | None = None) -> PriceVersion | None:
    """The version of the alias in force at a moment (None: now), or None when it was not priced then."""
    moment = await database_now_us(database) if at_us is None else at_us
    rows = await database.rows(
        f"SELECT {_COLUMNS} FROM price p JOIN model m ON m.id = p.model_id"
        " WHERE m.alias = ? AND p.effective_us <= ? ORDER BY p.effective_us DESC LIMIT 1",
        [model, moment],
    )
    return price_from_row(rows[0]) if rows else None


async def newest_price_id(database: Database, model: str) -> int:
    """The id of the version published last, whenever it takes effect; 0 when there is none."""
    alias = await find_model(model)
    rows = await database.rows("SELECT COALESCE(MAX(id), 0) AS id FROM price WHERE model_id = ?", [alias.id])
    return int(rows[0]["id"])


async def price_rows(database: Database, *, history: bool = False) -> list[dict[str, Any]]:
    """Prices in force now and those dated ahead, or with `history` all. `status` is current, past or scheduled."""
    now = await database_now_us(database)
    rows = await database.rows(
        f"SELECT {_COLUMNS}, m.alias, p.operator, p.reason, p.created_us"
        " FROM price p JOIN model m ON m.id = p.model_id ORDER BY m.alias, p.effective_us"
    )
    current = {row["alias"]: row["id"] for row in rows if row["effective_us"] <= now}
    found = []
    for row in rows:
        status = "current" if current.get(row["alias"]) == row["id"] else "past"
        status = "scheduled" if row["effective_us"] > now else status
        if history or status != "past":
            found.append(row | {"status": status, "version": price_from_row(row)})
    return found


async def scope_counts(database: Database, model: str) -> tuple[int, int]:
    """How many living keys may call the alias, and of how many accounts."""
    rows = await database.rows(
        "SELECT COUNT(*) AS keys_, COUNT(DISTINCT k.account_id) AS accounts FROM key_model s"
        " JOIN api_key k ON k.id = s.api_key_id JOIN model m ON m.id = s.model_id"
        " WHERE m.alias = ? AND k.revoked_us IS NULL",
        [model],
    )
    return rows[0]["keys_"], rows[0]["accounts"]


async def database_now_us(database: Database) -> int:
    """Now by the database's clock, which several machines share; SQLite's is this machine's."""
    if database.dialect == "sqlite":
        return now_us()
    rows = await database.rows("SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS now_us")
    return int(rows[0]["now_us"])


async def _moment(database: Database, model_id: int, effective_us: int | None) -> int:
    now = await database_now_us(database)
    if effective_us is not None and effective_us < now:
        raise BadInput(
            f"effective_from: {to_datetime(effective_us).isoformat()} is in the past; leave it out to begin now",
            field="effective_from",
        )
    moment = now if effective_us is None else effective_us
    while await Price.filter(model_id=model_id, effective_us=moment).exists():
        moment += 1
    return moment
