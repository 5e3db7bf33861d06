"""A small business for tests: requests are placed and settled through the ledger, as the server does it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from models.accounts import create_account, find_account
from models.catalog import add_model, add_provider, find_model
from models.credits import grant
from models.database import Database
from models.ids import new_request_id, now_us
from models.keys import issue_key, key_rows
from models.ledger import apply_one
from models.money import Capture, Place, Release, Settled
from models.price_list import price_at, publish_price
from models.price_terms import price_from_usd
from models.prices import NANO_PER_CREDIT, Meters, PriceVersion
from models.records import Audit, Change, Epoch
from models.routes import add_route, route_list
from models.secrets import Seal

# What is refused before the database is asked needs only one kind of it.
sqlite_only = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


async def stock_shop(database: Database) -> None:
    """Ada with 1,000 credits and one key, and `small-chat` at 0.27, 0.07 and 1.10 USD per million tokens."""
    await add_provider(
        database, "olga", "acme", base_url="https://api.acme.test/v1", api_key="canary", seal=Seal("secret")
    )
    await add_model(database, "olga", "small-chat", context_tokens=64_000, max_output_tokens=8_192, published=True)
    await add_route(database, "olga", "small-chat", provider="acme", upstream_model="acme-1-small")
    terms = price_from_usd(input_usd="0.27", cached_input_usd="0.07", output_usd="1.10")
    await publish_price(database, "olga", "small-chat", terms, reason="spring list")
    await create_account(database, "olga", "ada@example.com")
    await grant(database, "olga", "ada@example.com", 1_000 * NANO_PER_CREDIT, "welcome", "welcome-ada")
    await issue_key(database, "olga", "ada@example.com", name="laptop", models=["small-chat"])


async def open_shop(database: Database) -> Shop:
    account = await find_account(database, "ada@example.com")
    model = await find_model("small-chat")
    (key,), (route,) = await key_rows(database), await route_list()
    price = await price_at(database, "small-chat")
    assert price is not None
    return Shop(database, account.id, key["id"], model.id, route.id, price)


@dataclass
class Shop:
    database: Database
    account_id: int
    key_id: int
    model_id: int
    route_id: int
    price: PriceVersion

    async def serve(
        self, meters: Meters, *, outcome: str = "served", estimated: bool = False, at_us: int | None = None, **odd: Any
    ) -> str:
        """One request from its hold to its settlement. `odd` bends a column of its record."""
        moment = now_us() if at_us is None else at_us
        request_id, charge = await self.hold(moment), self.price.charge_nano(meters, moment)
        usage = self.usage_row(request_id, moment, meters, outcome, estimated, **odd)
        command = (
            Release(request_id, self.account_id, moment + 1, usage)
            if outcome == "failed"
            else Capture(request_id, self.account_id, odd.get("charge_nano", charge), moment + 1, usage)
        )
        settled = await self._apply(command)
        assert isinstance(settled, Settled)
        return request_id

    async def hold(self, at_us: int | None = None, *, amount_nano: int = 10**9, epoch_id: int | None = None) -> str:
        moment = now_us() if at_us is None else at_us
        request_id = new_request_id(moment)
        epoch = await self.epoch() if epoch_id is None else epoch_id
        place = Place(request_id, self.account_id, amount_nano, amount_nano, self.price.id, epoch, moment)
        await self._apply(place)
        return request_id

    async def epoch(self, *, ended: bool = False) -> int:
        row = await Epoch.create(
            machine="here", pid=1, started_us=1, heartbeat_us=1, ended_us=now_us() if ended else None
        )
        return row.id

    def usage_row(
        self, request_id: str, at_us: int, meters: Meters, outcome: str, estimated: bool, **odd: Any
    ) -> tuple[Any, ...]:
        return (
            request_id,
            at_us,
            self.account_id,
            odd.get("key_id", self.key_id),
            odd.get("model_id", self.model_id),
            self.route_id,
            self.price.id,
            outcome,
            False,
            estimated,
            odd.get("fresh", meters.fresh),
            meters.cached,
            meters.written,
            meters.output,
            odd.get("first_byte_ms", 12),
            odd.get("total_ms", 34),
            odd.get("cost_nano", 56),
            json.dumps(odd.get("attempts", [{"route": 1, "status": 200, "ms": 34}])),
        )

    async def _apply(self, command: Any) -> Any:
        async with self.database.transaction() as transaction:
            return await apply_one(transaction, command)


async def trace() -> tuple[int, int]:
    """How many audit rows and changes there are: a refused write leaves neither."""
    return await Audit.all().count(), await Change.all().count()


async def last_change() -> tuple[str, int]:
    row = await Change.all().order_by("-id").first()
    assert row is not None
    return row.kind, row.subject_id


async def damage(database: Database, statement: str, *values: Any) -> None:
    """What only somebody with the database's password can do: switch its guards off and edit."""
    if database.dialect == "postgres":
        statement = f"SET session_replication_role = replica; {statement}; RESET session_replication_role"
        await database.connection.execute_script(statement % values)
        return
    triggers = await database.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    for trigger in triggers:
        await database.connection.execute_script(f"DROP TRIGGER {trigger['name']}")
    await database.connection.execute_script(statement % values)
    for trigger in triggers:
        await database.connection.execute_script(trigger["sql"])
