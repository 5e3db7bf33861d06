"""A provider's invoice beside our records: each difference is named, and nothing else."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

import ops
from models.months import Month
from models.provider_usage import ProviderUsage
from ops.invoices import InvoiceCheck, compare_invoice
from tests.models.shop import sqlite_only

NOVEMBER = Month(2026, 11)
# 100 credits are 1 USD, so 10^11 nano-credits.
USED = [
    ProviderUsage("2026-11-01", "small", 2, 1_000, 100, 0, 50, 25 * 10**9),
    ProviderUsage("2026-11-01", "large", 1, 500, 0, 0, 70, 3),
    ProviderUsage("2026-11-02", "small", 4, 2_000, 0, 0, 90, 50 * 10**9),
]
COLUMNS = {"day": "Date", "model": "Model", "input_tokens": "In", "output_tokens": "Out", "amount_usd": "Cost"}
RIGHT = """\
Date,Model,In,Out,Cost
2026-11-01,small,400,20,0.10
2026-11-01T23:59:59Z,small,600,30,0.15
2026-11-01,large,500,70,0.00000000003
2026-11-02,small,2000,90,0.5
"""


def compare(folder: Path, text: str, **more: object) -> InvoiceCheck:
    path = folder / "invoice.csv"
    path.write_text(text, encoding="utf-8-sig")
    return compare_invoice(path, "acme", NOVEMBER, USED, **{"columns": COLUMNS, **more})  # type: ignore[arg-type]


def test_an_invoice_that_is_right_has_no_differences(tmp_path: Path) -> None:
    check = compare(tmp_path, RIGHT)
    assert check.ok
    assert check.frame().empty
    assert "3 days and models compared by input_tokens, output_tokens, amount_usd; no differences" in repr(check)


def test_each_difference_is_named(tmp_path: Path) -> None:
    wrong = RIGHT.replace("2000,90,0.5", "2001,90,0.500000001").replace("2026-11-01,large", "2026-11-03,large")
    check = compare(tmp_path, wrong)
    found = [(d.day, d.model, d.what, d.field, d.off_by) for d in check.differences]
    assert found == [
        ("2026-11-01", "large", "missing there", "input_tokens", -500),
        ("2026-11-01", "large", "missing there", "output_tokens", -70),
        ("2026-11-01", "large", "missing there", "amount_usd", Decimal("-0.00000000003")),
        ("2026-11-02", "small", "differs", "input_tokens", 1),
        ("2026-11-02", "small", "differs", "amount_usd", Decimal("0.000000001")),
        ("2026-11-03", "large", "missing here", "input_tokens", 500),
        ("2026-11-03", "large", "missing here", "output_tokens", 70),
        ("2026-11-03", "large", "missing here", "amount_usd", Decimal("0.00000000003")),
    ]
    assert list(check.frame().columns) == ["day", "model", "difference", "field", "ours", "theirs", "off_by"]
    patient = compare(tmp_path, wrong, tolerance_usd="0.01", tolerance_count=1)
    assert {d.day for d in patient.differences} == {"2026-11-01", "2026-11-03"}


def test_without_days_a_month_is_compared_by_model(tmp_path: Path) -> None:
    check = compare(tmp_path, "model,requests\nsmall,6\nlarge,2\n", columns=None)
    assert [(d.day, d.model, d.field, d.ours, d.theirs) for d in check.differences] == [("", "large", "requests", 1, 2)]


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (RIGHT.replace("0.15", "$0.15"), {}, r"row 3, column 'Cost': '\$0.15' is no amount like 12.50"),
        (RIGHT.replace("0.15", "nan"), {}, "row 3, column 'Cost'"),
        (RIGHT.replace("600", "600.5"), {}, "row 3, column 'In': '600.5' is no whole number"),
        (RIGHT.replace("2026-11-02", "2026-12-02"), {}, "row 5, column 'Date': 2026-12-02 is not in 2026-11"),
        (RIGHT.replace("2026-11-02", "yesterday"), {}, "row 5, column 'Date': 'yesterday' is no day like 2026-11-01"),
        (RIGHT + ",,,,0.75\n", {}, r"row 6, column 'Date': is empty; fill it in, or remove the row \(is it a sum\?\)"),
        (RIGHT + "2026-11-02,small\n", {}, "row 6, column 'In': is empty"),
        (RIGHT, {"columns": {"model": "Name"}}, "has no column 'Name' for model; it has Date, Model, In, Out, Cost"),
        (RIGHT, {"columns": {"price": "Cost"}}, "'price' is none of day, model"),
        (RIGHT, {"columns": {"model": "Model"}}, "say which column is any of requests, input_tokens"),
        (RIGHT, {"columns": {"amount_usd": "Cost"}}, "say which column is model"),
        (RIGHT, {"tolerance_usd": 0.1}, "tolerance_usd"),
        (RIGHT, {"tolerance_count": -1}, "tolerance_count"),
        ("Date,Model\n", {}, "has no lines"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row_and_column(
    tmp_path: Path, text: str, more: dict[str, object], said: str
) -> None:
    with pytest.raises(ops.BadInput, match=said):
        compare(tmp_path, text, **more)


def test_a_desk_compares_with_what_was_used_of_the_provider(desk: ops.Desk, tmp_path: Path) -> None:
    path = tmp_path / "invoice.csv"
    path.write_text("model,requests\nacme-1-small,3\n")
    check = desk.reports.invoice(path, provider="acme", month="2026-10")
    assert [(d.what, d.model, d.theirs) for d in check.differences] == [("missing here", "acme-1-small", 3)]
    with pytest.raises(ops.NotFound, match="there is no provider 'acmee'; there are: acme"):
        desk.reports.invoice(path, provider="acmee", month="2026-10")


@sqlite_only
def test_a_missing_file_is_named(desk: ops.Desk, tmp_path: Path) -> None:
    with pytest.raises(ops.BadInput, match="there is no file"):
        desk.reports.invoice(tmp_path / "x.csv", provider="acme", month="2026-10")
