"""Owns price versions as records: publishing dated ones, cancelling one ahead of its date, reading which is in force.

Pure prices are in `prices.py`. A row never changes: a cancelled version keeps its row, and another row says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from models.catalog import find_model
from models.changes import CATALOG, OperatorWrite, operator_write
from models.checks import check_reason, check_whole
from models.database import Database
from models.errors import BadInput, Conflict, NotFound
from models.ids import SECOND_US, now_us, to_datetime
from models.price_terms import check_price
from models.prices import PriceVersion, price_from_row, schedule_to_json
from models.records import Price, PriceCancelled

_COLUMNS = "p.id, p.effective_us, p.input_nano, p.cached_input_nano, p.cache_write_nano, p.output_nano, p.schedule"
# A test that a version `{0}` was not cancelled.
LIVE = "NOT EXISTS (SELECT 1 FROM price_cancelled c WHERE c.price_id = {0}.id)"
# A cancellation must have reached every worker before the price takes effect. Those read it within a second; the bound also
# covers a writer that stands still before its commit, which PostgreSQL ends after ten.
CANCEL_AHEAD_US = 15 * SECOND_US


class Order(msgspec.Struct, frozen=True):
    """A price to be published, and what the operator had seen when deciding so.

    `effective_us` None is from now on. `last_seen_id` is the alias' newest version then, and `replaces_id` the version in force
    when this one would take effect (0: none); either is not checked where it is None.
    """

    model: str
    price: PriceVersion
    effective_us: int | None = None
    last_seen_id: int | None = None
    replaces_id: int | None = None


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
    order = Order(model, price, effective_us, last_seen_id)
    return (await publish_prices(database, operator, [order], reason=reason))[0]


async def publish_prices(
    database: Database, operator: str, orders: Sequence[Order], *, reason: str
) -> list[PriceVersion]:
    """Publish all of them in one transaction, or none: BadInput and Conflict name the alias at fault."""
    why = check_reason(reason)
    for order in orders:
        check_price(order.price)
        if order.effective_us is not None:
            check_whole(order.effective_us, field="effective_from", least=0)
    if not orders:
        return []
    async with operator_write(database, operator) as write:
        published = [await _publish(database, write, order, why) for order in orders]
        await write.changed(CATALOG)
    return published


async def _publish(database: Database, write: OperatorWrite, order: Order, reason: str) -> PriceVersion:
    alias = await find_model(order.model)
    newest = await Price.filter(model_id=alias.id).order_by("-id").first()
    moment = await _moment(database, alias.id, order.effective_us)
    before = await price_at(database, alias.alias, moment)
    for seen, there in ((order.last_seen_id, newest), (order.replaces_id, before)):
        if seen is not None and seen != (there.id if there else 0):
            raise Conflict(f"price: {alias.alias} got another price meanwhile; propose again", field="price")
    base = order.price.tiers[0].rates
    values: dict[str, Any] = {
        "effective_us": moment,
        "input_nano": base.fresh,
        "cached_input_nano": base.cached,
        "cache_write_nano": base.written,
        "output_nano": base.output,
        "schedule": schedule_to_json(order.price),
    }
    row = await Price.create(
        **values, model_id=alias.id, operator=write.operator, reason=reason, created_us=write.at_us
    )
    await write.audit(
        "price.publish",
        f"model {alias.alias}",
        reason=reason,
        before=None if before is None else msgspec.to_builtins(before),
        after={"id": row.id, **values},
    )
    return msgspec.structs.replace(order.price, id=row.id, effective_us=moment)


async def cancel_price(database: Database, operator: str, price_id: int, *, reason: str) -> PriceVersion:
    """Take back a version before it takes effect; the one before it goes on. Twice is once.

    Raises BadInput when it takes effect within CANCEL_AHEAD_US or has done so: then only another price helps.
    """
    why, id_ = check_reason(reason), check_whole(price_id, field="price_version", least=1)
    async with operator_write(database, operator) as write:
        price = await find_price(database, id_)
        if await PriceCancelled.filter(price_id=id_).exists():
            return price.version
        await PriceCancelled.create(price_id=id_, operator=write.operator, reason=why, created_us=write.at_us)
        await write.changed(CATALOG)
        await write.audit(
            "price.cancel", f"model {price.model}", reason=why, before=msgspec.to_builtins(price.version), after=None
        )
        # Looked at last, as close to the commit as can be.
        now = await database_now_us(database)
        if price.version.effective_us < now + CANCEL_AHEAD_US:
            moment = to_datetime(price.version.effective_us).isoformat()
            raise BadInput(
                f"price_version: {id_} takes effect at {moment}, and can be cancelled until"
                f" {CANCEL_AHEAD_US // SECOND_US} s before; publish another price instead",
                field="price_version",
            )
    return price.version


class FoundPrice(msgspec.Struct, frozen=True):
    model_id: int
    model: str
    version: PriceVersion


async def find_price(database: Database, price_id: object) -> FoundPrice:
    """A version by its id, a cancelled one too. Raises NotFound."""
    valid = isinstance(price_id, int) and not isinstance(price_id, bool)
    query = f"SELECT {_COLUMNS}, p.model_id, m.alias FROM price p JOIN model m ON m.id = p.model_id WHERE p.id = ?"
    rows = await database.rows(query, [price_id]) if valid else []
    if not rows:
        raise NotFound(
            f"price_version: there is no price version {price_id!r}; list them to find it", field="price_version"
        )
    return FoundPrice(rows[0]["model_id"], rows[0]["alias"], price_from_row(rows[0]))


async def price_at(database: Database, model: str, at_us: int | None = None) -> PriceVersion | None:
    """The version of the alias in force at a moment (None: now), or None when it was not priced then."""
    moment = await database_now_us(database) if at_us is None else at_us
    rows = await database.rows(
        f"SELECT {_COLUMNS} FROM price p JOIN model m ON m.id = p.model_id"
        f" WHERE m.alias = ? AND p.effective_us <= ? AND {LIVE.format('p')} ORDER BY p.effective_us DESC LIMIT 1",
        [model, moment],
    )
    return price_from_row(rows[0]) if rows else None


async def newest_price_id(database: Database, model: str) -> int:
    """The id of the version published last, whenever it takes effect; 0 when there is none."""
    alias = await find_model(model)
    rows = await database.rows("SELECT COALESCE(MAX(id), 0) AS id FROM price WHERE model_id = ?", [alias.id])
    return int(rows[0]["id"])


async def price_rows(database: Database, *, history: bool = False) -> list[dict[str, Any]]:
    """Prices in force now and those dated ahead, or with `history` all.

    `status` is current, past, scheduled or cancelled; who published it, when and why; and who cancelled it, when and why.
    """
    now = await database_now_us(database)
    rows = await database.rows(
        f"SELECT {_COLUMNS}, m.alias, p.operator, p.reason, p.created_us, c.operator AS cancelled_by,"
        " c.reason AS cancelled_reason, c.created_us AS cancelled_us FROM price p JOIN model m ON m.id = p.model_id"
        " LEFT JOIN price_cancelled c ON c.price_id = p.id ORDER BY m.alias, p.effective_us"
    )
    kept = [row for row in rows if row["cancelled_us"] is None]
    current = {row["alias"]: row["id"] for row in kept if row["effective_us"] <= now}
    found = []
    for row in rows:
        status = "current" if current.get(row["alias"]) == row["id"] else "past"
        status = "scheduled" if row["effective_us"] > now else status
        status = "cancelled" if row["cancelled_us"] is not None else status
        if history or status not in ("past", "cancelled"):
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
