"""Owns the sample database: three months of a small business, the same to the last digit wherever it is made.

Notebooks are tried and tested on it. The story: six customers, three models behind three providers, prices that were
lowered, raised and given a night tariff (`sample_stock.py`), a day on which a provider failed, a customer who ran out of
credits, a refund, a correction (`sample_days.py`), vouchers, and a grant that waits for a second operator
(`sample_paperwork.py`). Every request went through the ledger's own rules, so `reconcile` holds as it does on a live database.
"""

from __future__ import annotations

import asyncio
import os
import pkgutil
import random
from pathlib import Path
from typing import Any

from models import migrations
from models.changes import OperatorWrite
from models.database import open_database, parse_url, project_folder
from models.ids import DAY_US, SECOND_US
from models.months import Month
from models.schema import migrate
from models.secrets import Seal, load_secret_key
from ops.desk import Desk, connect
from ops.sample_days import apply, batches
from ops.sample_paperwork import do_paperwork
from ops.sample_stock import DAYS, OPERATOR, stock_up

# A sample made by another version of these files is made anew.
VERSION = 2
_FIRST_US = Month(2026, 7).start_us
_SEED = 20260701


def sample(path: str | os.PathLike[str] = "var/sample.db", operator: str = OPERATOR) -> Desk:
    """A desk on the sample database at `path`, which is made first where it is missing (some seconds)."""
    return connect(f"sqlite://{make_sample(path)}", operator)


def make_sample(path: str | os.PathLike[str] = "var/sample.db") -> Path:
    """Make the sample database, whole or not at all. One that stands there stays, if it is of this version and schema."""
    target = project_folder() / path
    mark = target.with_name(f"{target.name}.version")
    if target.exists() and mark.exists() and mark.read_text() == _made_by():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    for old in target.parent.glob(f"{draft.name}*"):
        old.unlink()
    _run(build(draft))
    draft.with_name(f"{draft.name}.secret").replace(target.with_name(f"{target.name}.secret"))
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    draft.replace(target)
    mark.write_text(_made_by())
    for rest in target.parent.glob(f"{draft.name}*"):
        rest.unlink()
    return target


def _made_by() -> str:
    """The version of the story, and the newest migration: an older schema would be refused by every desk."""
    return f"{VERSION} {max(module.name for module in pkgutil.iter_modules(migrations.__path__) if module.name[0].isdigit())}"


def _run(work: Any) -> None:
    """Also where a loop runs already, as in a notebook: in a thread."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def build(path: Path, first_us: int = _FIRST_US) -> None:
    """The story in a new database, from the UTC midnight `first_us` on."""
    url = parse_url(f"sqlite://{path}")
    await migrate(url)
    chance = random.Random(_SEED)
    async with open_database(url) as database:
        # What is written again and again must not wait for the disk: the file counts only once it is whole.
        await database.rows("PRAGMA synchronous = OFF")
        stock = await stock_up(database, Seal(load_secret_key(url, None, create=True)), first_us)
        for day in range(DAYS):
            async with database.transaction() as transaction:
                morning = OperatorWrite(transaction, OPERATOR, first_us + day * DAY_US + 8 * 3_600 * SECOND_US)
                await do_paperwork(morning, stock, day)
            for commands in batches(stock, day, chance):
                async with database.transaction() as transaction:
                    await apply(transaction, commands, stock)
        await database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
