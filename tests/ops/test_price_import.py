"""A price list from a file: what it shows, that it is published at once and whole, and how it names what is wrong in it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xlsxwriter

import ops
from tests.models.shop import sqlite_only

HEAD = "model,input_usd,output_usd,cached_input_usd,cache_write_usd,above_tokens,start,end,effective_from"
SAME = "small-chat,0.27,1.10,0.07"


def csv(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8-sig")
    return path


def workbook(folder: Path, *rows: list[Any]) -> Path:
    path = folder / "list.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        for n, row in enumerate(rows):
            for m, value in enumerate(row):
                if isinstance(value, date):
                    sheet.write_datetime(n, m, value, book.add_format({"num_format": "yyyy-mm-dd hh:mm"}))
                else:
                    sheet.write(n, m, value)
    return path


@pytest.fixture
def large(desk: ops.Desk) -> str:
    desk.catalog.add_model("large-chat", context_tokens=200_000, max_output_tokens=9)
    desk.catalog.add_route(
        "large-chat", provider="acme", upstream_model="acme-2", cost_input_usd="0.75", cost_output_usd="2.50"
    )
    return "large-chat"


LIST = (
    "large-chat,1,4,0.25,1.25,,,,",
    "large-chat,2,6,0.5,,128000,,,",
    "large-chat,0.8,3,,,,16:30,00:30,",
    "large-chat,1.6,5,,,128000,16:30,00:30,",
    "small-chat,0.30,1.10,0.07,,,,,",
)


def test_a_list_shows_old_new_percent_and_margin_and_publishes_all_at_once(
    desk: ops.Desk, large: str, tmp_path: Path
) -> None:
    preview = desk.catalog.import_prices(csv(tmp_path, *LIST))
    for text in (repr(preview), preview._repr_html_()):
        assert all(part in text for part in ("2 prices to change, 0 unchanged", "+11.1 %", "+25.0 %", "above 128,000"))
    rows = preview.rows.set_index(["model", "where", "meter"])
    line = rows.loc[("small-chat", "", "input")]
    assert (line["old_usd"], line["new_usd"], line["change"]) == (Decimal("0.27"), Decimal("0.3"), "+11.1 %")
    line = rows.loc[(large, "16:30–00:30 above 128,000 tokens", "output")]
    assert (line["new_usd"], line["cost_usd"], line["margin"]) == (Decimal(5), Decimal("2.5"), "+50.0 %")
    assert len(desk.catalog.prices(history=True)) == 1
    assert len(preview.publish(reason="autumn list")) == 2
    prices = desk.catalog.prices().set_index("model")
    assert list(prices.loc[large, ["input_usd", "tiers", "windows"]]) == [Decimal(1), 2, 1]
    assert list(prices["reason"]) == ["autumn list"] * 2


def test_publishing_a_list_twice_is_publishing_it_once(desk: ops.Desk, large: str, tmp_path: Path) -> None:
    path = csv(tmp_path, *LIST)
    preview = desk.catalog.import_prices(path)
    published = preview.publish(reason="list")
    assert preview.publish(reason="list") == published
    again = desk.catalog.import_prices(path)
    assert (again.unchanged, again.proposals) == ([large, "small-chat"], [])
    assert again.publish(reason="list") == []
    assert len(desk.catalog.prices(history=True)) == 3


def test_a_stale_list_is_refused_as_a_whole(desk: ops.Desk, large: str, tmp_path: Path) -> None:
    preview = desk.catalog.import_prices(csv(tmp_path, *LIST))
    desk.catalog.propose_price("small-chat", input_usd="0.28", output_usd="0.90", cached_input_usd="0.07").publish(
        reason="by hand"
    )
    with pytest.raises(ops.Conflict, match="small-chat got another price meanwhile"):
        preview.publish(reason="list")
    assert large not in set(desk.catalog.prices()["model"])


def test_a_slip_of_units_in_a_list_needs_an_explicit_yes(desk: ops.Desk, large: str, tmp_path: Path) -> None:
    preview = desk.catalog.import_prices(csv(tmp_path, "small-chat,270,1.10,0.07", "large-chat,0.70,4"))
    assert any("small-chat: input: changes by more than a factor of 3" in warning for warning in preview.warnings)
    assert any("large-chat: input: 0.7 is below the cost of route" in warning for warning in preview.warnings)
    with pytest.raises(ops.NeedsConfirmation, match="accept_warnings=True"):
        preview.publish(reason="list")
    assert len(desk.catalog.prices(history=True)) == 1
    assert len(preview.publish(reason="list", accept_warnings=True)) == 2


@sqlite_only
def test_a_workbook_a_frame_and_a_csv_file_are_the_same_list(desk: ops.Desk, large: str, tmp_path: Path) -> None:
    head = ["Model", "input USD", "Output_USD", "above_tokens"]
    rows = [["large-chat", 0.07, 4, ""], ["", "", "", ""], ["large-chat", 0.1, 6.00001, 128000]]
    shown = [
        list(desk.catalog.import_prices(source).rows["new_usd"])
        for source in (
            workbook(tmp_path, head, *rows),
            pd.DataFrame(rows, columns=head),
            csv(tmp_path, *(",".join(map(str, row)) for row in rows), head=",".join(head)),
        )
    ]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0] == [Decimal(x) for x in ("0.07", "0.07", "0.07", "4", "0.1", "0.1", "0.1", "6.00001")]


@sqlite_only
def test_days_of_a_workbook_and_of_the_call_are_when_prices_begin(desk: ops.Desk, large: str, tmp_path: Path) -> None:
    begin = datetime.now(UTC).date() + timedelta(days=2)
    rows: list[list[Any]] = [["model", "input_usd", "output_usd", "effective_from"]]
    rows += [["large-chat", 1, 4, datetime(begin.year, begin.month, begin.day)], ["small-chat", 0.2, 1.1, ""]]
    later = (begin + timedelta(days=1)).isoformat()
    desk.catalog.import_prices(workbook(tmp_path, *rows), effective_from=later).publish(reason="list")
    prices = desk.catalog.prices()
    moments = dict(zip(prices["model"], prices["effective_from"], strict=True))
    assert moments[large] == pd.Timestamp(begin, tz="UTC")
    assert moments["small-chat"] == pd.Timestamp(later, tz="UTC")


@sqlite_only
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("no-such,1,2", "row 3, column model (A3): there is no model 'no-such'; add it first"),
        (",1,2", "row 3, column model (A3): is empty; name the model"),
        ("large-chat,,2", "row 3, column input_usd (B3): is empty; give USD per million tokens, like"),
        ('large-chat,"0,27",2', "row 3, column input_usd (B3): '0,27' is not a number; write it like"),
        ("large-chat,$1,2", "row 3, column input_usd (B3): '$1' is not a number"),
        ("large-chat,1,-2", "row 3, column output_usd (C3): must be between 0 and 10000"),
        ("large-chat,1,0.000001", "row 3, column output_usd (C3): at most five decimals"),
        ("large-chat,1,2,nan", "row 3, column cached_input_usd (D3): 'nan' is not a finite number"),
        ("large-chat,1,2,,,12.5", "row 3, column above_tokens (F3): must be a whole number of input tokens like"),
        ("large-chat,1,2,,,9", "row 3, column above_tokens (F3): has no row without above_tokens"),
        ("large-chat,1,2,,,,16:30", "row 3, column end (H3): is empty; hours need both start and end"),
        ("large-chat,1,2,,,,16:30,17:30", "row 3, column start (G3): prices hours of a model that has no row for the"),
        ("large-chat,1,2,,,,,,2026-01-01T00:00", "row 3, column effective_from (I3): has no time zone"),
        (
            "large-chat,1,2,,,,,,2020-01-01",
            "row 3, column effective_from (I3): 2020-01-01T00:00:00+00:00 is in the past",
        ),
        ("large-chat,1,2\nlarge-chat,1,3", "row 4, column model (A4): prices the same as row 3 does; remove one"),
        ("large-chat,1,2\nlarge-chat,1,3,,,,9:00,10:00", "row 4, column start (G4): must be a UTC time like"),
        (
            "large-chat,1,2\nlarge-chat,1,3,,,,09:00,09:00",
            "row 4, column start (G4): is empty; start and end are the same",
        ),
        (
            "large-chat,1,2\nlarge-chat,1,3,,,,09:00,11:00\nlarge-chat,1,3,,,,10:00,12:00",
            "row 5, column start (G5): overlaps the hours of row 4; let one end",
        ),
        (
            "large-chat,1,2\nlarge-chat,1,2,,,9,,,2026-12-01",
            "row 4, column effective_from (I4): belongs into the row of",
        ),
    ],
)
def test_a_wrong_cell_is_named_with_its_remedy_and_nothing_changes(
    desk: ops.Desk, large: str, tmp_path: Path, row: str, told: str
) -> None:
    preview = desk.catalog.import_prices(csv(tmp_path, "small-chat,0.30,1.10,0.07", *row.split("\n")))
    (problem,) = preview.errors["problem"]
    assert problem.startswith(told)
    assert problem in repr(preview)
    with pytest.raises(ops.BadInput, match="nothing was published"):
        preview.publish(reason="list", accept_warnings=True)
    assert len(desk.catalog.prices(history=True)) == 1


@sqlite_only
def test_every_wrong_cell_of_a_list_is_named_at_once(desk: ops.Desk, large: str, tmp_path: Path) -> None:
    preview = desk.catalog.import_prices(csv(tmp_path, "large-chat,x,y", "no-such,1,2", SAME))
    assert [(row.row, row.column) for row in preview.errors.itertuples()] == [
        (2, "input_usd"),
        (2, "output_usd"),
        (3, "model"),
    ]
    with pytest.raises(ops.BadInput, match=r"and 2 more, see \.errors"):
        preview.publish(reason="list")


@sqlite_only
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the table is empty"),
        ("model,input_usd\nsmall-chat,1", "output_usd are missing; the first row may name model, input_usd"),
        ("model,input_usd,output_usd,price\nsmall-chat,1,2,3", "price are not known"),
        ("model,input_usd,output_usd,model\nsmall-chat,1,2,3", "model stand there twice"),
        ("model;input_usd;output_usd\nsmall-chat;1;2", "separates with semicolons; save it with commas"),
        ("model,input_usd,output_usd\n", "must be 1 to 10,000, got 0"),
        ("model,input_usd,output_usd\nsmall-chat,1,2,3", "row 2: has more cells"),
        ("model,input_usd,output_usd\n\xff", "not a CSV file in UTF-8"),
    ],
)
def test_what_is_no_price_list_is_refused(desk: ops.Desk, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ops.BadInput) as refusal:
        desk.catalog.import_prices(path)
    assert told in str(refusal.value)


@sqlite_only
def test_a_file_that_cannot_be_read_is_named(desk: ops.Desk, tmp_path: Path) -> None:
    (tmp_path / "list.xlsx").write_text("no workbook")
    for name in ("missing.csv", "missing.xlsx", "list.xlsx"):
        with pytest.raises(ops.BadInput, match=name) as refusal:
            desk.catalog.import_prices(tmp_path / name)
        assert refusal.value.field == "file"
