"""The sample database: the same to the last digit wherever it is made, and a business in which every invariant holds."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from ops.sample_data import make_sample, sample
from ops.sample_stock import CUSTOMERS, DAYS

# What differs between two makings: when it was made, and the secret that seals its providers' credentials.
_OF_ITS_MAKING = {"tortoise_migrations", "sqlite_sequence"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("sample") / "sample.db")


def rows_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
        columns = [row[1] for row in connection.execute("PRAGMA table_info(provider)")]
    sealed = columns.index("credential")
    tables["provider"] = [row[:sealed] + row[sealed + 1 :] for row in tables["provider"]]
    return {name: sorted(rows, key=repr) for name, rows in tables.items() if name not in _OF_ITS_MAKING}


@pytest.mark.drill
def test_two_samples_are_the_same(path: Path, tmp_path: Path) -> None:
    assert rows_of(path) == rows_of(make_sample(tmp_path / "again.db"))


def test_it_tells_three_months_of_a_business_and_its_books_are_right(path: Path) -> None:
    with sample(path) as desk:
        assert desk.reconcile()["ok"].all()
        records = desk.usage.records(outcome=None)
        assert set(records["account"]) == {customer.email for customer in CUSTOMERS}
        assert {"served", "failed", "left"} == set(records["outcome"])
        assert records["estimated"].any()
        assert records["at"].dt.date.nunique() == DAYS
        assert desk.accounts.balances().set_index("email").loc["studio-lumen@example.com", "available_nano"] < 10**9


def test_one_that_is_there_stays_as_it_is(path: Path) -> None:
    before = path.stat().st_mtime_ns
    assert make_sample(path) == path
    assert path.stat().st_mtime_ns == before


def test_one_with_an_older_schema_is_made_anew(path: Path, tmp_path: Path) -> None:
    """As `git pull` leaves it: the story is the same, and a table lacks what the newest migration adds."""
    old = tmp_path / "sample.db"
    shutil.copy(path, old)
    version, newest = path.with_name("sample.db.version").read_text().split()
    with sqlite3.connect(old) as connection:
        connection.execute("DELETE FROM tortoise_migrations WHERE name = ?", [newest])
    old.with_name("sample.db.version").write_text(f"{version} 0006_payment_facts")
    with sample(old) as desk:
        assert desk.reconcile()["ok"].all()
