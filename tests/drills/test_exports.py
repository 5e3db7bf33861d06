"""A month of many lines (a million with LONG=1) is exported in bounded memory, adds up to the ledger, and reads back the same
exact numbers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import ops
from models.ids import now_us
from models.months import Month, month_of
from tests.drills.conftest import filled_postgres
from tests.large import LONG, REQUESTS
from tests.rig import ROOT
from tests.stores import Sql

# A month of the large database; with LONG=1 a million lines in one month, for which XLSX alone takes minutes.
LINES, MOST_MIB = (1_000_000, 1_024) if LONG else (REQUESTS // 14, 400)
ADDED_UP_WITHIN_S = 5
pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(3_600)]

# In a process of its own, so that its peak of memory is the export's. Not `ru_maxrss`: that remembers who started it.
_EXPORT = """
import sys, ops
from pathlib import Path
url, month, kind, path = sys.argv[1:]
with ops.connect(url, operator="olga") as desk:
    made = getattr(desk.reports.month(month), f"to_{kind}")(path)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(made.lines, made.ledger.amount_nano, int(peak.split()[1]) // 1024)
"""


def last_month() -> Month:
    return month_of(now_us()).plus(-1)


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database whose last month, which is closed, has that many lines."""
    if not LONG:
        yield request.getfixturevalue("filled")
        return
    # Two of a hundred requests failed, and are no transfers.
    with filled_postgres(LINES * 100 // 98 + 1, months=1, until_us=last_month().end_us) as url:
        yield url


@pytest.mark.parametrize("kind", ["csv", "parquet", "xlsx"])
def test_a_month_of_many_lines_is_the_ledger_in_little_memory(kind: str, exported: str, tmp_path: Path) -> None:
    path, month = tmp_path / f"month.{kind}", last_month()
    started = time.monotonic()
    command = [sys.executable, "-c", _EXPORT, exported, str(month), kind, str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GATEWAY_SECRET_KEY": "secret"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr, "the progress bar came to its end"
    lines, amount_nano, mib = map(int, done.stdout.split())
    print(f"{kind}: {lines:,} lines in {time.monotonic() - started:.0f} s, {mib} MiB, {path.stat().st_size:,} bytes")  # noqa: T201
    assert mib <= MOST_MIB
    with Sql(exported) as sql:
        wanted = sql.rows(
            "SELECT COUNT(*), -SUM(amount_nano) FROM transfer WHERE kind = 'charge' AND at_us >= ? AND at_us < ?",
            month.start_us,
            month.end_us,
        )
    assert [(lines, amount_nano)] == [(count, int(nano)) for count, nano in wanted]
    assert lines >= LINES
    amounts = read(path)
    assert (len(amounts), sum(map(int, amounts))) == (lines, amount_nano)
    started = time.monotonic()
    verdict = ops.verify_export(path)
    print(f"verified in {time.monotonic() - started:.0f} s")  # noqa: T201
    assert verdict.ok, verdict
    if kind == "parquet":
        ten_of_it_are_added_up_in_seconds(path, lines, amount_nano)


def ten_of_it_are_added_up_in_seconds(path: Path, lines: int, amount_nano: int) -> None:
    """Without the database: with LONG=1 ten million lines, by account and model."""
    for number in range(10):
        os.link(path, path.with_name(f"copy-{number}.parquet"))
    started = time.monotonic()
    sums = ops.archive_sums(path.with_name("copy-*.parquet"), "account", "model")
    took_s = time.monotonic() - started
    print(f"{10 * lines:,} lines added up in {took_s:.1f} s")  # noqa: T201
    assert (sums["lines"].sum(), sums["amount_nano"].sum()) == (10 * lines, 10 * amount_nano)
    assert took_s < ADDED_UP_WITHIN_S


def read(path: Path) -> pd.Series:  # type: ignore[type-arg]
    """The amounts, as an analyst reads them."""
    if path.suffix == ".csv":
        return pd.read_csv(path, usecols=["amount_nano"]).amount_nano
    if path.suffix == ".parquet":
        return pd.read_parquet(path, columns=["amount_nano"]).amount_nano
    sheets = pd.read_excel(path, sheet_name=None, engine="calamine", usecols=["amount_nano"])
    return pd.concat(sheets.values()).amount_nano
