"""A price moved as a whole, and a model introduced with all it needs: said twice, each is once; what is wrong does nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

import ops
from models.errors import BadInput
from models.markup import changed
from models.price_terms import price_from_usd
from tests.models.shop import sqlite_only

TERMS: dict[str, Any] = {
    "input_usd": "1",
    "output_usd": "3",
    "tiers": [{"above_tokens": 1_000, "input_usd": "2", "output_usd": "5"}],
    "windows": [{"start": "20:00", "end": "06:00", "input_usd": "0.5", "output_usd": "1.5"}],
}
NEW: dict[str, Any] = {
    "provider": "borealis",
    "base_url": "https://api.borealis.test/v1",
    "key_from": "PROVIDER_API_KEY",
    "upstream_model": "borealis-1",
    "context_tokens": 64_000,
    "max_output_tokens": 8_192,
    "cost_input_usd": "0.20",
    "cost_output_usd": "0.80",
}


def test_a_change_is_of_every_tier_and_window() -> None:
    price = changed(price_from_usd(**TERMS), "-10 %")
    assert [(tier.above_tokens, tier.rates.fresh, tier.rates.output) for tier in price.tiers] == [
        (0, 90_000, 270_000),
        (1_000, 180_000, 450_000),
    ]
    assert (price.windows[0].tiers[0].rates.fresh, price.windows[0].start_minute) == (45_000, 20 * 60)


@pytest.mark.parametrize(("change", "rate"), [("+50%", 5), ("+33.3%", 4), ("-50%", 2), ("-100%", 0), ("+0%", 3)])
def test_a_rate_is_rounded_to_the_nearest_fifth_decimal(change: str, rate: int) -> None:
    assert changed(price_from_usd(input_usd="0.00003", output_usd="1"), change).tiers[0].rates.fresh == rate


@pytest.mark.parametrize("change", ["5%", "-101%", "+5", "", 5, "+ten%", "+999999%"])
def test_a_change_that_cannot_be_meant_is_refused(change: Any) -> None:
    with pytest.raises(BadInput, match="change"):
        changed(price_from_usd(input_usd="1", output_usd="9000"), change)


def test_the_same_change_of_the_same_version_is_once(desk: ops.Desk) -> None:
    first = int(desk.catalog.prices().loc[0, "price_version"])
    for _ in range(2):
        desk.catalog.propose_change("small-chat", "+10%", replaces=first).publish(reason="dearer")
    prices = desk.catalog.prices(history=True)
    assert prices["input_usd"].tolist() == [Decimal("0.27"), Decimal("0.297")]
    with pytest.raises(BadInput, match="replaces=2, and propose it again"):
        desk.catalog.propose_change("small-chat", "+10%").publish(reason="dearer")
    assert len(desk.catalog.prices(history=True)) == 2
    with pytest.raises(BadInput, match="no price version 999"):
        desk.catalog.propose_change("small-chat", "+10%", replaces=999)


@sqlite_only
def test_a_model_is_introduced_once_and_customers_do_not_see_it(
    desk: ops.Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "a-key")
    for _ in range(2):
        routes = desk.catalog.introduce("new-chat", **NEW)
    assert routes[["provider", "upstream_model"]].to_numpy().tolist() == [["borealis", "borealis-1"]]
    model = desk.catalog.models().set_index("model").loc["new-chat"]
    assert (bool(model["published"]), model["routes"]) == (False, 1)
    with pytest.raises(ops.Conflict, match=r"borealis is at https://api\.borealis\.test/v1"):
        desk.catalog.introduce("new-chat", **NEW | {"base_url": "https://elsewhere.test/v1"})


@sqlite_only
def test_without_the_providers_key_nothing_is_added(desk: ops.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROVIDER_API_KEY", raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    before = len(desk.audit.rows())
    with pytest.raises(ops.SetupError, match="PROVIDER_API_KEY"):
        desk.catalog.introduce("new-chat", **NEW)
    assert len(desk.audit.rows()) == before


@sqlite_only
def test_a_replay_can_end_in_the_past(desk: ops.Desk) -> None:
    replay = desk.catalog.propose_change("small-chat", "+10%").replay(7, until="2026-10-01")
    assert "from 2026-09-24 00:00 to 2026-10-01 00:00 UTC" in repr(replay)
