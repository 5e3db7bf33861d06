"""The upgrade drill: a database of the release before is migrated under its running program, and nothing of it is lost.

What was recorded of a release is its own program, too (`record.py`), so the old server that runs here is the real one. Where
a release could not serve a database (0.1.0 served SQLite alone), its operators' verbs are what still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import record
from tests.faults.crashes import EXPIRED_WITHIN_S
from tests.rig import Process, Provider
from tests.servers import execute_now
from tests.stores import CLUSTER, SQLITE, Sql, fresh_stores, on

pytestmark = pytest.mark.drill
RELEASES = sorted(path.name for path in record.RELEASES.iterdir())
# USD 0.27 and 1.10 per million tokens.
INPUT_NANO, OUTPUT_NANO = 27_000, 110_000
Rows = dict[str, list[tuple[Any, ...]]]


@dataclass
class Place:
    """A recorded release, loaded: its program, its database, and what a server of today is told."""

    folder: Path
    database_url: str
    program: Path
    facts: dict[str, Any]
    settings: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.settings, "GATEWAY_DATABASE_URL": self.database_url}

    def run(self, *arguments: str) -> str:
        """A command of today, to its end."""
        return record.run(record.ROOT, self.database_url, self.folder, "-m", "gateway", *arguments)

    def old_verbs(self, lines: str) -> str:
        """Lines for `desk`, run by the release's own operators' code."""
        program = f"import ops\nwith ops.connect(operator='of before') as desk:\n    {lines}"
        return record.run(self.program, self.database_url, self.folder, "-c", program).strip()

    def columns(self) -> dict[str, list[str]]:
        """Every table of the records and its columns, as they are now."""
        with Sql(self.database_url) as database:
            if database.dialect == "sqlite":
                tables = [name for (name,) in database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
                found = {name: [row[1] for row in database.rows(f'PRAGMA table_info("{name}")')] for name in tables}
            else:
                found = {}
                for table, column in database.rows(
                    "SELECT c.relname::text, a.attname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
                    " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
                    " AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum"
                ):
                    found.setdefault(table, []).append(column)
        return {name: of for name, of in found.items() if name not in ("tortoise_migrations", "sqlite_sequence")}

    def rows(self, columns: dict[str, list[str]]) -> Rows:
        with Sql(self.database_url) as database:
            return {
                table: sorted(
                    database.rows(f'SELECT {", ".join(names)} FROM "{table}"'),
                    key=lambda row: tuple(map(str, row)),
                )
                for table, names in columns.items()
            }  # fmt: skip

    def value(self, query: str, *values: Any) -> Any:
        with Sql(self.database_url) as database:
            return database.value(query, *values)

    def balance_nano(self, email: str) -> int:
        return int(self.value("SELECT balance_nano FROM account WHERE name = ?", email))


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    started = Provider(tmp_path)
    yield started
    started.process.stop()


@pytest.fixture(params=[(release, kind) for release in RELEASES for kind in (SQLITE, CLUSTER)], ids="-".join)
def place(request: pytest.FixtureRequest, tmp_path: Path, provider: Provider) -> Iterator[Place]:
    release, kind = request.param
    kept = record.RELEASES / release
    facts = json.loads((kept / "facts.json").read_text())
    with on(kind), fresh_stores(tmp_path) as stores:
        dialect = "sqlite" if kind == SQLITE else "postgres"
        text = gzip.decompress((kept / f"{dialect}.sql.gz").read_bytes()).decode()
        if kind == SQLITE:
            path = stores.database_url.removeprefix("sqlite://")
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.executescript(text)
        else:
            execute_now(stores.database_url, text)
        record.lead_to(stores.database_url, provider.base_url)
        settings = {**stores.environment, "GATEWAY_SECRET_KEY": facts["secret_key"]}
        program = record.unpack(kept / "program.tar.xz", tmp_path / "program")
        yield Place(tmp_path, stores.database_url, program, {**facts, "dialect": dialect}, settings)


class Call(threading.Thread):
    """A completion under way, in a thread of its own."""

    def __init__(self, url: str, key: str, model: str, **fields: Any) -> None:
        super().__init__(daemon=True)
        self._asked = (url, key, model)
        self._fields = fields
        self.status, self.body = 0, b""
        self.start()

    def run(self) -> None:
        self.status, self.body = record.call(*self._asked, **self._fields)


async def test_nothing_is_lost_while_the_old_program_runs_on(place: Place, provider: Provider) -> None:
    keys = place.facts["keys"]
    served_before = place.facts["dialect"] in place.facts["serves"]
    running = None
    with contextlib.ExitStack() as stopped:
        if served_before:
            old = record.serve(place.program, place.database_url, place.folder)
            stopped.callback(lambda: old.popen.poll() is None and old.kill())
            assert record.call(old.url, keys["ada"], "small-chat")[0] == 200
            running = Call(old.url, keys["ada"], "gated-chat", stream=True)
            await provider.wait("sim:words=4,gate,tag=drill", count=1, state="open")

        # The migration, and every row there was: balances, records, prices, keys.
        columns = place.columns()
        before = place.rows(columns)
        assert {len(before[table]) > 0 for table in ("account", "transfer", "hold", "usage", "price", "api_key")} == {
            True
        }
        told = await asyncio.to_thread(place.run, "migrate")
        assert "applied " in told, told
        assert place.rows(columns) == before
        assert "nothing to do" in await asyncio.to_thread(place.run, "migrate")

        # What the old program does now is as good as before.
        balance = place.balance_nano("ada@example.com")
        if running is not None:
            await provider.release("sim:words=4,gate,tag=drill")
            await asyncio.to_thread(running.join, 30)
            assert running.status == 200
            assert b"[DONE]" in running.body
            assert record.call(old.url, keys["ada"], "small-chat")[0] == 200
            assert place.balance_nano("ada@example.com") < balance
            assert old.stop() == 0
            balance = place.balance_nano("ada@example.com")
        place.old_verbs(
            "desk.credits.grant('ada@example.com', credits='1', reason='meanwhile', grant_key='meanwhile-ada')"
        )
        balance += 10**9
        assert place.balance_nano("ada@example.com") == balance

        # The new server: old keys, old prices, the credential that was sealed then.
        new = Process(["serve", "--port", "0"], place.environment, place.folder / "gateway.log")
        stopped.callback(lambda: new.popen.poll() is None and new.kill())
        assert record.call(new.url, keys["narrow"], "long-chat")[0] == 403
        assert record.call(new.url, keys["disabled"], "small-chat")[0] == 401
        assert record.call(new.url, keys["revoked"], "small-chat")[0] == 401
        assert record.call(new.url, keys["bob"], "small-chat")[0] == 200
        calls = len(await provider.calls("sim:words=12"))
        status, body = await asyncio.to_thread(record.call, new.url, keys["ada"], "small-chat")
        assert status == 200
        used = json.loads(body)["usage"]
        charge = used["prompt_tokens"] * INPUT_NANO + used["completion_tokens"] * OUTPUT_NANO
        assert charge > 0
        assert place.balance_nano("ada@example.com") == balance - charge
        last = (await provider.calls("sim:words=12"))[-1]
        assert len(await provider.calls("sim:words=12")) == calls + 1
        assert "credential-of-a-recorded-release" in str(last["headers"])

        # The old operators' code beside the new server: it hears of what they write.
        issued = place.old_verbs(
            "print(desk.keys.issue('zoe@example.com', name='of before', models=['small-chat']).secret);"
            " desk.credits.grant('zoe@example.com', credits='1', reason='late', grant_key='late-zoe')"
        )
        assert record.call(new.url, issued, "small-chat")[0] == 200
        assert place.balance_nano("zoe@example.com") < 10**9

        # What a killed server of then had held is given back.
        async with asyncio.timeout(EXPIRED_WITHIN_S):
            while place.value("SELECT COUNT(*) FROM hold WHERE status = 'open'"):
                await asyncio.sleep(0.1)
        assert new.stop() == 0
        check_history(place, before, columns)
        place.run("reconcile")

        # Back to the old server: it serves what was migrated, and what it charges is in the books.
        if served_before:
            again = record.serve(place.program, place.database_url, place.folder)
            stopped.callback(lambda: again.popen.poll() is None and again.kill())
            assert record.call(again.url, keys["ada"], "small-chat")[0] == 200
            assert again.stop() == 0
            place.run("reconcile")


def check_history(place: Place, before: Rows, columns: dict[str, list[str]]) -> None:
    """What is written once is as it was written; the rest has only grown."""
    after = place.rows(columns)
    for table in ("transfer", "usage", "price", "audit", "user", "provider", "model", "route", "limit", "key_model"):
        assert set(map(str, before[table])) <= set(map(str, after[table])), table
    for table, rows in before.items():
        assert len(after[table]) >= len(rows), table
