"""Grants from a file: looked at first, given whole or not at all, and each line once however often it is run."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ops
from tests.models.shop import sqlite_only

ADA, BOB = "ada@example.com", "bob@example.com"
CREDIT = 10**9
HEAD = "email,credits,grant_key\n"


@pytest.fixture
def staffed(desk: ops.Desk) -> ops.Desk:
    desk.accounts.create(BOB)
    return desk


def balances(desk: ops.Desk) -> list[int]:
    return [int(nano) for nano in desk.accounts.balances()["balance_nano"]]


def test_a_file_is_shown_then_given_once(staffed: ops.Desk, tmp_path: Path) -> None:
    path = tmp_path / "grants.csv"
    path.write_bytes(b'\xef\xbb\xbfgrant_key,email,credits\r\nmay-1, Ada@Example.com ,10.5\r\n"may\n2",' + BOB.encode())
    with pytest.raises(ops.BadInput, match="credits"):
        staffed.credits.grants_from(path).grant(reason="spring")
    path.write_text(f"{HEAD}Ada@Example.com ,10.5,may-1\n{BOB},0.000000001,may-2\n{ADA},1000,welcome-ada\n")
    preview = staffed.credits.grants_from(str(path))
    assert list(preview.rows["status"]) == ["new", "new", "done before"]
    assert preview.totals.to_dict("records") == [
        {"status": "new", "rows": 2, "credits": Decimal("10.500000001")},
        {"status": "done before", "rows": 1, "credits": Decimal(1000)},
    ]
    assert "nothing is granted yet" in repr(preview)
    assert balances(staffed) == [1_000 * CREDIT, 0]
    done = preview.grant(reason="spring")
    assert (done.granted, done.done_before, done.amount_nano) == (2, 1, 10_500_000_001)
    assert balances(staffed) == [1_010_500_000_000, 1]
    for again in (preview, staffed.credits.grants_from(path)):
        repeated = again.grant(reason="spring")
        assert (repeated.granted, repeated.done_before, repeated.amount_nano) == (0, 3, 0)
    assert balances(staffed) == [1_010_500_000_000, 1]
    assert staffed.reconcile()["ok"].all()
    (row,) = staffed.audit.rows(action="credits.grant_file").to_dict("records")
    assert row["reason"] == "spring"
    assert "may-1" in row["after"]
    assert "welcome-ada" not in row["after"]
    assert list(staffed.audit.rows(subject=BOB)["action"]) == ["account.create", "credits.grant_file"]


@sqlite_only
@pytest.mark.parametrize(
    ("cells", "column", "problem"),
    [
        ("nobody@example.com,5,k", "email", "create it first"),
        ("nobody,5,k", "email", "like ada@example.com"),
        (",5,k", "email", "is empty"),
        (f"{ADA},,k", "credits", "is empty"),
        (f"{ADA},much,k", "credits", "much"),
        (f'{ADA},"1,5",k', "credits", "after a point"),
        (f"{ADA},0,k", "credits", "above zero"),
        (f"{ADA},-3,k", "credits", "take_back"),
        (f"{ADA},1e400,k", "credits", "1e400"),
        (f"{ADA},NaN,k", "credits", "NaN"),
        (f"{ADA},0.0000000001,k", "credits", "nine decimals"),
        (f"{ADA},4611686018,k", "credits", "can hold"),
        (f"{ADA},5,", "grant_key", "is empty"),
        (f"{ADA},5,first", "grant_key", "stands in row 2 already"),
        (f"{ADA},5,welcome-ada", "grant_key", "choose a new key"),
        (f"{ADA},5,{'x' * 201}", "grant_key", "1 to 200 characters"),
        (f"{ADA},5,voucher:7", "grant_key", "choose another"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line_and_remedy_and_nothing_is_given(
    desk: ops.Desk, tmp_path: Path, cells: str, column: str, problem: str
) -> None:
    path = tmp_path / "grants.csv"
    path.write_text(f"{HEAD}{ADA},1,first\n\n{cells}\n{ADA},1,last\n")
    preview = desk.credits.grants_from(path)
    (error,) = preview.errors.to_dict("records")
    assert (error["where"], error["column"]) == ("row 4", column)
    assert problem in error["problem"]
    assert f"row 4: {error['problem']}" in repr(preview)
    with pytest.raises(ops.BadInput, match="nothing was granted") as refusal:
        preview.grant(reason="spring")
    assert refusal.value.field == column
    assert str(refusal.value).startswith("row 4: ")
    assert balances(desk) == [1_000 * CREDIT]


@sqlite_only
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the table is empty"),
        (b"email,credits\n", "columns: grant_key are missing"),
        (b"email,credits,grant_key,email\n", "columns: email stand there twice"),
        (b"email,credits,grant_key,note\n", "columns: note are not known"),
        (b"email,credits,grant_key\n", "rows: must be 1 to 10,000, got 0"),
        (b"email;credits;grant_key\na@b.c;1;k\n", "save it with commas"),
        (b"email,credits,grant_key\na@b.c,1,000,k\n", "row 2: has more cells"),
        (b'email,credits,grant_key\n"a@b.c,1,k\n', "unexpected end"),
        (b"email,credits,grant_key\n\xe4@b.c,1,k\n", "UTF-8"),
        (HEAD.encode() + b"a@b.c,1,k\n" * 10_001, "got 10,001"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(
    desk: ops.Desk, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "grants.csv"
    path.write_bytes(content)
    with pytest.raises(ops.BadInput) as refusal:
        desk.credits.grants_from(path)
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ops.BadInput, match="cannot be read"):
        desk.credits.grants_from(tmp_path / "missing.csv")


@sqlite_only
def test_a_frame_is_read_as_it_shows_itself_or_not_at_all(desk: ops.Desk) -> None:
    def statuses(credits: Any) -> list[str]:
        keys = [f"k-{n}" for n in range(len(credits))]
        preview = desk.credits.grants_from(pd.DataFrame({"email": ADA, "credits": credits, "grant_key": keys}))
        return list(preview.rows["status"])

    assert statuses([1, 2]) == ["new", "new"]
    assert statuses(pd.Series(["1.5", None])) == ["new", "wrong"]
    assert statuses(pd.Series([3, pd.NA], dtype="Int64")) == ["new", "wrong"]
    assert statuses([Decimal("0.1"), np.int64(7), "8", True]) == ["new", "new", "new", "wrong"]
    assert statuses([0.1, 0.1 + 0.2, float("nan"), float("inf")]) == ["new", "wrong", "wrong", "wrong"]


def test_what_changed_since_the_preview_is_seen_when_it_is_granted(staffed: ops.Desk) -> None:
    file = pd.DataFrame({"email": [ADA, BOB], "credits": ["1", "2"], "grant_key": ["one", "two"]})
    preview = staffed.credits.grants_from(file)
    staffed.credits.grant(ADA, credits="1", reason="by hand", grant_key="one")
    assert preview.grant(reason="spring").done_before == 1
    other = staffed.credits.grants_from(file.assign(grant_key=["three", "four"]))
    staffed.credits.grant(ADA, credits="9", reason="by hand", grant_key="four")
    with pytest.raises(ops.BadInput, match="row 3: grant_key"):
        other.grant(reason="spring")
    assert balances(staffed) == [1_010 * CREDIT, 2 * CREDIT]


def test_ten_thousand_lines_are_one_transaction(staffed: ops.Desk) -> None:
    n = 10_000
    file = pd.DataFrame(
        {"email": [ADA, BOB] * (n // 2), "credits": "0.5", "grant_key": [f"may-{i}-{BOB}" for i in range(n)]}
    )
    assert staffed.credits.grants_from(file).grant(reason="all").granted == n
    assert balances(staffed) == [1_000 * CREDIT + n // 4 * CREDIT, n // 4 * CREDIT]
    assert staffed.audit.verify().ok
