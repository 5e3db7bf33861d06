"""When keys were last used: noted in memory, and stored when the database has time for it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from gateway.auth import Keys
from gateway.catalog import Catalog
from gateway.gateway import Gateway
from gateway.settings import load_settings
from models.accounts import create_account
from models.catalog import add_model
from models.database import open_database
from models.keys import issue_key
from models.records import ApiKey
from models.schema import migrate
from models.secrets import Seal


async def test_what_cannot_be_stored_now_is_stored_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    settings = load_settings(database_url=f"sqlite://{path}")
    await migrate(settings.database)
    async with open_database(settings.database) as database:
        gateway = Gateway(settings)
        gateway.pages_database = database
        gateway.keys = Keys(database, Catalog(database, Seal("secret")))
        await create_account(database, "olga", "ada@example.com")
        await add_model(database, "olga", "small-chat", context_tokens=1_000, max_output_tokens=100)
        key_id, other_id = [
            (await issue_key(database, "olga", "ada@example.com", name=name, models=["small-chat"])).id
            for name in ("laptop", "server")
        ]
        gateway.keys.used |= {key_id: 1_000, other_id: 1_000}
        await database.connection.execute_query("PRAGMA busy_timeout = 20")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as notebook:
            notebook.execute("BEGIN IMMEDIATE")
            await gateway.store_uses()
            assert gateway.keys.used == {key_id: 1_000, other_id: 1_000}
            notebook.execute("ROLLBACK")
        gateway.keys.used[key_id] = 2_000
        await gateway.store_uses()
        assert gateway.keys.used == {}
        assert [(await ApiKey.get(id=id_)).last_used_us for id_ in (key_id, other_id)] == [2_000, 1_000]
