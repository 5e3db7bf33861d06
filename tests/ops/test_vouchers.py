"""Vouchers as operators see them: made once, handed over once, listed and withdrawn. Redeeming them: `tests/models`."""

from __future__ import annotations

import asyncio
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ops
from models.accounts import find_account
from models.database import open_database, parse_url
from models.vouchers import redeem
from tests.models.shop import sqlite_only
from tests.stores import Sql

ADA = "ada@example.com"


def use(address: str, code: str) -> None:
    async def enter() -> None:
        async with open_database(parse_url(address)) as database:
            account = await find_account(database, ADA)
            await redeem(database, f"account {account.id}", account.id, code)

    asyncio.run(enter())


def test_a_batch_is_exported_once_used_and_withdrawn(desk: ops.Desk, address: str, tmp_path: Path) -> None:
    batch = desk.vouchers.make("spring", credits="2.5", count=4, reason="fair", expires_at="2090-01-01")
    path = tmp_path / "codes.csv"
    path.touch()
    with pytest.raises(ops.BadInput, match="name a new file"):
        batch.to_csv(path)
    path.unlink()
    batch.to_csv(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for again in (batch.to_frame, lambda: batch.to_csv(tmp_path / "more.csv")):
        with pytest.raises(ops.Conflict, match="make another"):
            again()
    codes = pd.read_csv(path, dtype=str)
    assert (len(set(codes["code"])), set(codes["credits"]), set(codes["batch"])) == (4, {"2.5"}, {"spring"})
    use(address, codes["code"][2])
    assert desk.vouchers.void("spring", reason="over") == 3
    assert desk.vouchers.void("spring", reason="over") == 0
    assert list(desk.vouchers.list("spring")["status"]) == ["void", "void", "redeemed", "void"]
    assert list(desk.vouchers.list("spring")["account"].dropna()) == [ADA]
    (row,) = desk.vouchers.batches().to_dict("records")
    assert (row["count"], row["redeemed"], row["void"], row["left"], row["credits"]) == (4, 1, 3, 0, Decimal("2.5"))
    with pytest.raises(ops.Conflict, match="take the credits back"):
        desk.vouchers.void_one(int(desk.vouchers.list("spring")["id"][2]), reason="over")
    assert desk.accounts.balances()["balance_nano"].sum() == 1_002_500_000_000


def test_codes_are_neither_stored_nor_shown(desk: ops.Desk, address: str) -> None:
    batch = desk.vouchers.make("spring", credits=1, count=2, reason="fair")
    shown = repr(batch)
    codes = list(batch.to_frame()["code"])
    assert not any(code in shown + repr(batch) for code in codes)
    with Sql(address) as sql:
        kept = [sql.rows(f"SELECT * FROM {table}") for table in ("voucher", "voucher_batch", "audit")]
        assert not any(part in repr(kept) for code in codes for part in (code, code.replace("-", "")))


def test_made_again_under_its_name_nothing_is_made(desk: ops.Desk) -> None:
    desk.vouchers.make("spring", credits="5", count=3, reason="fair")
    with pytest.raises(ops.AlreadyExists, match="choose another name"):
        desk.vouchers.make("spring", credits="5", count=3, reason="fair")
    assert list(desk.vouchers.batches()["count"]) == [3]


@sqlite_only
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": " "}, "name"),
        ({"credits": "0"}, "credits"),
        ({"credits": 0.5}, "credits"),
        ({"credits": "501"}, "credits"),
        ({"count": 0}, "count"),
        ({"count": 10_001}, "count"),
        ({"reason": ""}, "reason"),
        ({"expires_at": "2020-01-01"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
    ],
)
def test_a_bad_batch_is_not_made(
    desk: ops.Desk, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], field: str
) -> None:
    monkeypatch.setenv("OPS_APPROVAL_ABOVE", "500")
    given: dict[str, Any] = {"name": "spring", "credits": "500", "count": 2, "reason": "fair"} | wrong
    with pytest.raises(ops.BadInput) as refusal:
        desk.vouchers.make(given.pop("name"), **given)
    assert refusal.value.field == field
    assert len(desk.vouchers.batches()) == 0
