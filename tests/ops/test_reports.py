"""Statements and a month's export: equal to the ledger, the same bytes twice, exact in every format, and any forgery named."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from python_calamine import CalamineWorkbook

import ops
from models.accounts import create_account
from models.credits import grant
from models.database import Database, open_database, parse_url
from models.ids import DAY_US, new_request_id, now_us
from models.keys import issue_key
from models.ledger import apply_in
from models.money import ISSUED, Capture, Command, Move, Place, Release
from models.months import Month, month_of
from models.prices import NANO_PER_CREDIT, Meters
from models.protections import GRACE_US
from models.records import Price
from models.spreadsheets import safe_text
from ops.frames import credits_exact
from ops.table_files import WRITERS, XlsxWriter
from tests.databases import Templates
from tests.models.shop import Shop, open_shop, sqlite_only, stock_shop
from tests.stores import Sql

MONTH = Month(2025, 11)
START, END = MONTH.start_us, MONTH.end_us
ADA, BO = "ada@example.com", "=1+1@example.com"
FORMATS = ("csv", "xlsx", "parquet")
RUN = "=cmd|' /C calc'!A0"


async def stock_month(database: Database) -> None:
    """November 2025 of two customers: charges of every kind, some of them late over the month's edges, and other transfers."""
    await stock_shop(database)
    shop = await open_shop(database)
    row = await Price.get(id=shop.price.id)
    twin = {name: getattr(row, name) for name in row._meta.db_fields if name not in ("id", "effective_us")}
    old = await Price.create(**twin, effective_us=START - 90 * DAY_US)
    shop.price = msgspec.structs.replace(shop.price, id=old.id, effective_us=old.effective_us)
    bo = (await create_account(database, "olga", BO)).id
    key = await issue_key(database, "olga", BO, name=RUN, models=["small-chat"])
    await move(shop, shop.account_id, 2 * 10**15, START - DAY_US, "a large one")
    await move(shop, bo, 10 * NANO_PER_CREDIT, START, "'quoted")
    await move(shop, bo, 3_000_000_123_456_789, START + DAY_US, "@SUM(A1:A9)")
    await move(shop, bo, -2, START + 3 * DAY_US, '-back, "and" more')
    await serve(shop, START - 5, 3, Meters(fresh=1))
    await serve(shop, START - 5, 5, Meters(fresh=2))
    await serve(shop, START - 9 * DAY_US, 10 * DAY_US, Meters(fresh=3, cached=1, written=2, output=4))
    await serve(shop, END - GRACE_US - 1, 2 * GRACE_US, Meters(fresh=4))
    await serve(shop, END - 2, 1, Meters(fresh=5))
    await serve(shop, END - 1, 1, Meters(fresh=6))
    await serve(shop, START + 7, 7, Meters(fresh=7), outcome="failed")
    chance = random.Random(7)
    for _ in range(12):
        meters = Meters(
            chance.randrange(9_000), chance.randrange(900), chance.randrange(90), chance.randrange(1, 5_000)
        )
        mine = {"account_id": bo, "key_id": key.id} if chance.random() < 0.5 else {}
        await serve(shop, START + chance.randrange(29 * DAY_US), chance.randrange(10**7), meters, **mine)
    await serve(shop, START + 2 * DAY_US, 9, Meters(output=100), estimated=True)
    await move(shop, bo, -(await balance(database, bo)) + 1_000_000, START + 29 * DAY_US, "dispute")
    await serve(shop, END - DAY_US // 2, 9, Meters(output=90), account_id=bo, key_id=key.id)


async def balance(database: Database, account_id: int) -> int:
    return int((await database.rows("SELECT balance_nano FROM account WHERE id = ?", [account_id]))[0]["balance_nano"])


async def move(shop: Shop, account_id: int, amount_nano: int, at_us: int, note: str) -> None:
    legs = (ISSUED, account_id) if amount_nano > 0 else (account_id, ISSUED)
    kind = "grant" if amount_nano > 0 else "refund"
    await apply(shop, [Move(*legs, abs(amount_nano), kind, f"key-{note}", at_us, note, "olga")])


async def serve(
    shop: Shop,
    at_us: int,
    later_us: int,
    meters: Meters,
    *,
    outcome: str = "served",
    estimated: bool = False,
    account_id: int | None = None,
    key_id: int | None = None,
) -> None:
    id_, account = new_request_id(at_us), account_id or shop.account_id
    usage = list(shop.usage_row(id_, at_us, meters, outcome, estimated, **({"key_id": key_id} if key_id else {})))
    usage[2] = account
    charge_nano = shop.price.charge_nano(meters, at_us)
    held_nano = min(charge_nano, await balance(shop.database, account))
    commands: list[Command] = [Place(id_, account, held_nano, held_nano, shop.price.id, await shop.epoch(), at_us)]
    if outcome == "failed":
        commands.append(Release(id_, account, at_us + later_us, tuple(usage)))
    else:
        commands.append(Capture(id_, account, charge_nano - (5 if estimated else 0), at_us + later_us, tuple(usage)))
    await apply(shop, commands)


async def apply(shop: Shop, commands: list[Command]) -> None:
    async with shop.database.transaction() as transaction:
        outcomes = await apply_in(transaction, commands)
    assert not [one for one in outcomes if isinstance(one, Exception)], outcomes


@pytest.fixture
def address(dialect: str, templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("GATEWAY_DATABASE_URL", "OPS_OPERATOR", "GATEWAY_BRAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    with templates.copy(dialect, tmp_path, stock_month) as url:
        yield url


@pytest.fixture
def made(desk: ops.Desk, tmp_path: Path) -> Path:
    """A folder with November in every format."""
    report = desk.reports.month("2025-11")
    for kind in FORMATS:
        getattr(report, f"to_{kind}")(tmp_path / f"november.{kind}", progress=False)
    return tmp_path


def read(path: Path) -> pd.DataFrame:
    """As an analyst reads it."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".xlsx":
        sheets = pd.read_excel(path, sheet_name=None, engine="calamine", keep_default_na=False)
        return pd.concat(sheets.values(), ignore_index=True)
    return pd.read_csv(path, keep_default_na=False)


def ledger(address: str) -> list[tuple[int, str, int, int]]:
    """The month's transfers as they stand: account, kind, what it added to a customer, what was written off."""
    with Sql(address) as sql:
        rows = sql.rows(
            "SELECT debit_account, credit_account, kind, amount_nano FROM transfer WHERE at_us >= ? AND at_us < ?",
            START,
            END,
        )
    customers = [(d, k, -n, 0) if d > 1000 else (c, k, n, 0) for d, c, k, n in rows if max(d, c) > 1000]
    return customers + [(0, k, 0, n) for d, c, k, n in rows if max(d, c) < 1000]


# ── a month's export ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_format_is_the_ledger_to_the_nano_credit(made: Path, address: str) -> None:
    transfers = ledger(address)
    assert sum(lost for *_, lost in transfers) > 0
    frames = {kind: read(made / f"november.{kind}") for kind in FORMATS}
    for rows in frames.values():
        found = sorted(
            (int(a), k, int(n)) for a, k, n in zip(rows.account_id, rows.kind, rows.amount_nano, strict=True)
        )
        assert found == sorted((account, kind, nano) for account, kind, nano, _ in transfers if account)
        assert sum(map(int, rows.writeoff_nano)) == sum(lost for *_, lost in transfers)
    csv, xlsx, parquet = (frames[kind] for kind in FORMATS)
    for name in (
        "request_id",
        "check",
        "transfer_id",
        "output_tokens",
        "price_version",
        "writeoff_nano",
        "note",
        "account",
    ):
        texts = [
            ["" if pd.isna(v) or v == "" else str(v).removesuffix(".0") for v in rows[name]] for rows in (csv, xlsx)
        ]
        plain = ["" if pd.isna(v) or v is None else str(v).removesuffix(".0") for v in parquet[name]]
        assert texts[0] == texts[1]
        assert texts[0] == [safe_text(text) for text in plain]
    assert list(parquet.amount_credits) == [Decimal(nano) / NANO_PER_CREDIT for nano in parquet.amount_nano]
    assert [Decimal(str(value)) for value in pd.read_csv(made / "november.csv", dtype=str).amount_credits] == list(
        parquet.amount_credits
    )


def test_numbers_stay_numbers_and_texts_never_run(made: Path) -> None:
    for kind in ("csv", "xlsx"):
        rows = read(made / f"november.{kind}")
        texts = {text for name in ("account", "key", "note") for text in rows[name] if text}
        assert {f"'{BO}", f"'{RUN}", "'@SUM(A1:A9)", "''quoted", '\'-back, "and" more'} <= texts
        assert not [text for text in texts if str(text).startswith(("=", "+", "-", "@"))]
    header, *lines = CalamineWorkbook.from_path(str(made / "november.xlsx")).get_sheet_by_index(0).to_python()
    cells = [line[header.index("amount_nano")] for line in lines]
    # Excel shows 15 digits: what has more is a text, and all the rest can be added up.
    assert [type(cell) for cell in cells if abs(int(cell)) >= 10**15] == [str, str]
    assert all(isinstance(cell, float) for cell in cells if abs(int(cell)) < 10**15)


def test_a_closed_month_is_the_same_bytes_twice(made: Path, address: str, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    with ops.connect(address, operator="otto") as desk:
        for folder in (made, again):
            report, statement = desk.reports.month("2025-11"), desk.reports.statement(ADA, month="2025-11")
            report.to_pdf(folder / "november.pdf")
            for kind in (*FORMATS, "pdf"):
                if folder is again and kind != "pdf":
                    getattr(report, f"to_{kind}")(folder / f"november.{kind}", progress=False)
                getattr(statement, f"to_{kind}")(folder / f"ada.{kind}")
    files = sorted(path.name for path in again.iterdir())
    assert len(files) == 2 * 4 + 3
    for name in files:
        assert (made / name).read_bytes() == (again / name).read_bytes(), name


def test_what_was_made_is_verified_without_a_database(made: Path) -> None:
    digests = {}
    for kind in FORMATS:
        verdict = ops.verify_export(made / f"november.{kind}")
        assert verdict.ok, verdict
        assert (verdict.month, verdict.closed, verdict.lines) == ("2025-11", True, len(read(made / f"november.{kind}")))
        assert ops.verify_export(made / f"november.{kind}", digest=verdict.digest).ok
        digests[kind] = verdict.digest
    assert not ops.verify_export(made / "november.csv", digest=digests["xlsx"]).ok


@sqlite_only
def test_the_verifier_is_a_command(made: Path) -> None:
    (made / "gone").mkdir()
    for name in ("november.csv", "november.csv.manifest.json"):
        shutil.copy(made / name, made / "gone" / name)

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ops.verify", str(made / "gone" / "november.csv")]
        environment = {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "GATEWAY_DATABASE_URL": "postgres://nobody@127.0.0.1:1/x",
        }
        return subprocess.run(command, env=environment, cwd=made, capture_output=True, text=True, check=False)

    fine = run()
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "every line is its tokens × its price" in fine.stdout
    file = made / "gone" / "november.csv"
    file.write_text(file.read_text().replace("small-chat", "large-chat", 1))
    forged = run()
    assert forged.returncode == 1
    assert re.search(r"line \d+ \([0-9a-f-]{36}\): price_version 2 is no price of large-chat", forged.stdout)


@sqlite_only
def test_any_digit_changed_in_a_csv_names_its_line(made: Path) -> None:
    path = made / "november.csv"
    text = path.read_text()
    header = text.index("\n") + 1
    places = [place for place in range(header, len(text)) if text[place].isdigit()]
    line = text.index("charge", header)
    chosen = [place for place in places if line < place < text.index("\n", line)]
    chosen += random.Random(1).sample(places, 200)
    for place in chosen:
        digit = "7" if text[place] != "7" else "4"
        path.write_text(text[:place] + digit + text[place + 1 :])
        verdict = ops.verify_export(path)
        number = text.count("\n", 0, place)
        assert not verdict.ok
        assert verdict.faults[0].startswith(f"line {number} ("), (number, verdict.faults)
        assert len(verdict.faults) == 1, "the lines after it are as they were made"


@sqlite_only
def test_a_digit_changed_in_a_spreadsheet_or_in_parquet_names_its_line(made: Path) -> None:
    parquet = made / "november.parquet"
    table = pq.read_table(parquet)
    for name in ("amount_nano", "output_tokens", "account_id", "at"):
        values = table[name].cast(pa.int64()).to_pylist()
        values[4] = (values[4] or 0) + 1
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        pq.write_table(table.set_column(place, field, pa.array(values, pa.int64()).cast(field.type)), parquet)
        assert ops.verify_export(parquet).faults[0].startswith("line 5 ("), name
    xlsx = made / "november.xlsx"
    whole = xlsx.read_bytes()
    for tag in ("M", "P", "E"):
        rewrite(xlsx, rf'(<c r="{tag}6"[^>]*><v>-?)(\d)', lambda found: found[1] + str((int(found[2]) + 1) % 10))
        assert ops.verify_export(xlsx).faults[0].startswith("line 5 ("), tag
        xlsx.write_bytes(whole)
    rewrite(xlsx, "<sheetData>", lambda found: "<sheetData > ")
    assert ops.verify_export(xlsx).faults == ("the file was changed, though every line reads as it was made",)


def rewrite(path: Path, pattern: str, change: Any) -> None:
    """Change the first sheet of a workbook, as an editor that hides it would."""
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    name = "xl/worksheets/sheet1.xml"
    text, count = re.subn(pattern, change, parts[name].decode(), count=1)
    assert count == 1
    parts[name] = text.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for part, data in parts.items():
            book.writestr(part, data)


@sqlite_only
def test_lines_and_manifests_that_were_tampered_with_are_named(made: Path) -> None:
    path, beside = made / "november.csv", made / "november.csv.manifest.json"
    lines = path.read_text().splitlines(keepends=True)
    for wrong, said in (
        (lines[:4] + lines[5:], "line 4 .* was removed, added or moved"),
        ([*lines[:4], lines[5], lines[4], *lines[6:]], "line 4 .* was removed, added or moved"),
        ([*lines[:4], lines[4], *lines[4:]], "line 5 .* was removed, added or moved"),
        (lines[:-1], f"lines are missing at the end, after line {len(lines) - 2}"),
    ):
        path.write_text("".join(wrong))
        assert re.search(said, ops.verify_export(path).faults[0])
    path.write_text("".join([*lines, "1,2\n"]))
    with pytest.raises(ops.BadInput, match="a line has 2 cells, not 22"):
        ops.verify_export(path)
    path.write_text("".join(lines))
    given = json.loads(beside.read_text())
    cheaper = json.loads(beside.read_text())
    cheaper["prices"][0]["version"]["tiers"][0]["rates"]["output"] -= 1
    totals = json.loads(beside.read_text())
    totals["totals"]["grant"]["amount_nano"] += 1
    for document, said in ((cheaper, "its tokens cost"), (totals, "the manifest was changed")):
        beside.write_text(json.dumps(document))
        verdict = ops.verify_export(path)
        assert "the manifest was changed" in verdict.faults[0]
        assert any(said in fault for fault in verdict.faults)
    beside.write_text(json.dumps(given))
    assert ops.verify_export(path).ok
    beside.unlink()
    with pytest.raises(ops.BadInput, match=r"no file .*manifest"):
        ops.verify_export(path)


def test_a_sheet_that_is_full_is_followed_by_another(
    desk: ops.Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITERS, "xlsx", functools.partial(XlsxWriter, rows_per_sheet=6))
    path = tmp_path / "split.xlsx"
    made = desk.reports.month("2025-11").to_xlsx(path, progress=False)
    sheets = pd.read_excel(path, sheet_name=None, engine="calamine")
    assert [len(sheet) for sheet in sheets.values()] == [5] * (made.lines // 5) + (
        [made.lines % 5] if made.lines % 5 else []
    )
    assert ops.verify_export(path).ok


def test_lines_that_do_not_add_up_to_the_ledger_are_not_written(desk: ops.Desk, address: str, tmp_path: Path) -> None:
    with Sql(address) as sql:
        account = sql.value("SELECT MIN(account_id) FROM api_key")
        sql.rows(
            "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, note, operator)"
            f" VALUES ({account}, 2, 5, 'charge', {START + 5}, '', '') RETURNING id"
        )
    (tmp_path / "november.csv").write_text("what stood here before")
    with pytest.raises(ops.OutOfBalance, match=r"nothing was written.*desk\.reconcile"):
        desk.reports.month("2025-11").to_csv(tmp_path / "november.csv", progress=False)
    assert (tmp_path / "november.csv").read_text() == "what stood here before"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part") or "manifest" in path.name]


def test_the_sums_by_account_and_model_are_those_of_the_lines(desk: ops.Desk, made: Path) -> None:
    rows = read(made / "november.parquet")
    charges = rows[(rows.kind == "charge") & (rows.amount_nano != 0)]
    wanted = charges.groupby(["account", "model"]).amount_nano.agg(["count", "sum"])
    found = desk.reports.month("2025-11").by_account_and_model().set_index(["account", "model"])
    assert {key: (row.requests, -row.amount_nano) for key, row in found.iterrows()} == {
        key: (row["count"], row["sum"]) for key, row in wanted.iterrows()
    }
    assert list(found.amount_credits) == [Decimal(int(nano)) / NANO_PER_CREDIT for nano in found.amount_nano]


@sqlite_only
@pytest.mark.parametrize("engine", ["duckdb://", pytest.param("spark://local[2]", marks=pytest.mark.drill)])
def test_exported_months_are_added_up_without_the_database(engine: str, desk: ops.Desk, made: Path) -> None:
    if engine.startswith("spark"):
        pytest.importorskip("pyspark", reason="Spark is not installed: pip install -e '.[spark]'")
        if shutil.which("java") is None:
            pytest.skip("Spark needs Java 17, and there is none")
    wanted = desk.reports.month("2025-11").by_account_and_model()
    found = ops.archive_sums(made / "november.parquet", "account", "model", engine=engine)
    charged = found[found.amount_nano != 0].reset_index(drop=True)
    assert list(charged.account) == list(wanted.account)
    assert list(-charged.amount_nano) == list(wanted.amount_nano)
    assert list(charged.tokens) == list(wanted.tokens)
    days = ops.archive_sums(str(made / "*.parquet"), "day", kind=None, engine=engine)
    month = desk.reports.month("2025-11").totals
    assert int(days.amount_nano.sum()) == month.amount_nano
    assert [day.isoformat() for day in days.day] == sorted(day.isoformat() for day in days.day)
    assert ops.archive_sums(made / "november.parquet", kind=None, engine=engine).amount_nano.to_list() == [
        month.amount_nano
    ]
    assert ops.archive_sums(f"file://{made}/november.parquet", kind="none", engine=engine).amount_nano.to_list() == [0]
    with pytest.raises(ops.BadInput, match="by: must be one of account, model"):
        ops.archive_sums(made / "november.parquet", "route", engine=engine)
    with pytest.raises(ops.BadInput, match="there is no file"):
        ops.archive_sums(made / "december.parquet", engine=engine)
    for name, said in (("november.csv", "cannot be read"), ("other.parquet", "has no column account")):
        pd.DataFrame({"x": [1]}).to_parquet(made / "other.parquet")
        with pytest.raises(ops.BadInput, match=said):
            ops.archive_sums(made / name, engine=engine)


@sqlite_only
def test_an_engine_that_nobody_knows_is_refused_with_those_there_are(desk: ops.Desk, made: Path) -> None:
    for engine in ("presto://x", "spark", "duckdb://elsewhere"):
        with pytest.raises(ops.BadInput, match=r"engine: .* names none; write duckdb://, spark://local"):
            ops.archive_sums(made / "november.parquet", engine=engine)


def test_a_month_that_is_open_is_refused_or_marked(desk: ops.Desk, tmp_path: Path) -> None:
    now = month_of(now_us())
    with pytest.raises(ops.BadInput, match=r"is not closed before .* UTC; wait, or pass provisional=True"):
        desk.reports.month(str(now))
    report = desk.reports.month(str(now), provisional=True)
    assert "status provisional" in repr(report)
    made = report.to_csv(tmp_path / "now.csv", progress=False)
    assert (made.closed, made.lines) == (False, 1)
    assert "provisional" in str(ops.verify_export(tmp_path / "now.csv"))
    with pytest.raises(ops.BadInput, match="still to come"):
        desk.reports.month(str(now.plus(2)), provisional=True)


@sqlite_only
def test_wrong_input_says_what_is_right_and_writes_nothing(
    desk: ops.Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in ("2025-13", "November", 202511, None):
        with pytest.raises(ops.BadInput, match='month: must be a month like "2026-01"'):
            desk.reports.month(month)  # type: ignore[arg-type]
        with pytest.raises(ops.BadInput, match="month"):
            desk.reports.statement(ADA, month)  # type: ignore[arg-type]
    with pytest.raises(ops.NotFound, match="no account of eve@example.com; create it first".replace(".", r"\.")):
        desk.reports.statement("eve@example.com", "2025-11")
    report, before = desk.reports.month("2025-11"), set(tmp_path.iterdir())
    with pytest.raises(ops.BadInput, match="there is no folder"):
        report.to_csv(tmp_path / "nowhere" / "x.csv")
    with pytest.raises(ops.BadInput, match="is a folder"):
        report.to_parquet(tmp_path)
    for kind, module in (("xlsx", "xlsxwriter"), ("parquet", "pyarrow"), ("pdf", "typst")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ops.SetupError, match=r"is missing; install it with: pip install -e '\.\[notebooks\]'"):
            getattr(report, f"to_{kind}")(tmp_path / f"x.{kind}")
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    report.to_csv(tmp_path / "x.csv")
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"x.csv", "x.csv.manifest.json"}


# ── statements ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_statement_adds_up_in_every_format(desk: ops.Desk, address: str, tmp_path: Path) -> None:
    statement = desk.reports.statement(ADA.upper(), month="2025-11")
    with Sql(address) as sql:
        account = sql.value("SELECT MIN(account_id) FROM api_key")
        rows = sql.rows(
            "SELECT debit_account, amount_nano, at_us FROM transfer WHERE ? IN (debit_account, credit_account)", account
        )
    moved = [(at, -nano if debit == account else nano) for debit, nano, at in rows]
    assert statement.opening_nano == sum(nano for at, nano in moved if at < START)
    assert statement.closing_nano == sum(nano for at, nano in moved if at < END)
    shown = statement.frame()
    for kind in FORMATS:
        path = getattr(statement, f"to_{kind}")(tmp_path / f"ada.{kind}")
        read_back = read(path)
        for name in ("amount_nano", "balance_nano"):
            assert list(map(int, read_back[name])) == list(shown[name])
        assert list(read_back.kind)[:: len(read_back) - 1] == ["opening", "closing"]
        assert set(read_back.status) == {"final"}
        assert sum(map(int, read_back.amount_nano)) == statement.closing_nano - statement.opening_nano
    assert statement.to_pdf(tmp_path / "ada.pdf").read_bytes().startswith(b"%PDF")


def test_a_statement_of_an_open_month_is_marked(desk: ops.Desk) -> None:
    statement = desk.reports.statement(ADA, month=str(month_of(now_us())))
    assert set(statement.frame().status) == {"provisional"}
    assert "provisional" in statement._repr_html_()
    assert "(provisional)" in repr(statement)


@sqlite_only
def test_what_a_customer_is_called_is_shown_and_not_run(desk: ops.Desk, address: str) -> None:
    async def name() -> None:
        async with open_database(parse_url(address)) as database:
            await grant(database, "olga", BO, 1, "<script>alert(1)</script>", "odd")

    asyncio.run(name())
    shown = desk.reports.statement(BO, month=str(month_of(now_us())))._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


# ── what a month comes to, at a glance ────────────────────────────────────────────────────────────────────────────


def test_a_month_s_figures_agree_wherever_they_are_shown(desk: ops.Desk, tmp_path: Path) -> None:
    manifest = desk.reports.month("2025-11").to_csv(tmp_path / "november.csv", progress=False)
    kinds = manifest.frame().set_index("kind")
    assert kinds["lines"].sum() == manifest.lines
    assert kinds["credits"].sum() == credits_exact(manifest.ledger.amount_nano)
    for email in (ADA, BO):
        statement = desk.reports.statement(email, "2025-11")
        summary = statement.summary()
        assert summary["what"].to_list()[0 :: len(summary) - 1] == ["opening", "closing"]
        assert (
            summary["credits"].iloc[:-1].sum() == summary["credits"].iloc[-1] == credits_exact(statement.closing_nano)
        )


def test_the_invoice_that_we_expect_is_the_one_without_differences(desk: ops.Desk, tmp_path: Path) -> None:
    month = desk.reports.billing_month()
    assert (month.name, month.status) == ("2025-11", "final")
    expected = desk.reports.expected_invoice("acme", month.name)
    expected.to_csv(tmp_path / "invoice.csv", index=False)
    assert desk.reports.invoice(tmp_path / "invoice.csv", provider="acme", month=month.name).ok
    costs = desk.reports.provider_costs(month.name).set_index("provider").loc["acme"]
    assert costs["requests"] == expected["requests"].sum()
    assert costs["amount_usd"] == expected["amount_usd"].sum()
    practice = ops.practice_invoice(desk, "acme", month.name)
    assert [(one.what, one.field) for one in practice.differences] == [("differs", "amount_usd")]
