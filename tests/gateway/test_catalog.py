"""The catalog that a server holds: what it shows was true at one moment, whatever operators did while it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.catalog import Catalog
from models.catalog import add_model, publish_model
from models.database import Database, open_database, parse_url
from models.price_list import publish_price
from models.price_terms import price_from_usd
from models.routes import add_route
from models.schema import migrate
from models.secrets import Seal
from tests.models.shop import stock_shop


class Interrupted(Database):
    """Somebody else introduces a model and then publishes another, just after the routes were read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.url, database.context)
        self.is_armed = False

    async def rows(self, query: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        found = await super().rows(query, values)
        if self.is_armed and " FROM route " in query:
            self.is_armed = False
            await offer(self, "first-chat")
            await publish_model(self, "olga", "second-chat")
        return found


async def offer(database: Database, alias: str, *, published: bool = True) -> None:
    await add_model(database, "olga", alias, context_tokens=1_000, max_output_tokens=100, published=published)
    await add_route(database, "olga", alias, provider="acme", upstream_model="acme-1")
    await publish_price(database, "olga", alias, price_from_usd(input_usd="1", output_usd="2"), reason="test")


async def test_who_sees_a_change_sees_every_change_before_it(tmp_path: Path) -> None:
    url = parse_url(f"sqlite://{tmp_path}/gateway.db")
    await migrate(url)
    async with open_database(url) as opened:
        database = Interrupted(opened)
        await stock_shop(database)
        await offer(database, "second-chat", published=False)
        catalog = Catalog(database, Seal("secret"))
        await catalog.start()
        assert set(catalog.snapshot.aliases) == {"small-chat"}
        await add_route(database, "olga", "small-chat", provider="acme", upstream_model="acme-2")
        database.is_armed = True
        await catalog.follow(lambda kind, subject_id: None, lambda: None)
        assert set(catalog.snapshot.aliases) == {"small-chat", "first-chat", "second-chat"}
