"""The contract's calls as an operator makes them, and the frames that come back."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

import ops
from models.database import open_database, parse_url
from models.prices import Meters
from tests.models.shop import open_shop, sqlite_only

ADA = "ada@example.com"
USAGE = [
    "request_id", "at", "account", "key_id", "model", "route", "fresh_tokens", "cached_tokens", "cache_write_tokens",
    "output_tokens", "charge_nano", "estimated", "price_version", "outcome",
]  # fmt: skip


def test_the_catalog_from_a_provider_to_a_published_price(desk: ops.Desk) -> None:
    desk.catalog.add_provider("beta", base_url="https://api.beta.test/v1", api_key="k")
    desk.catalog.set_credential("beta", api_key="k2")
    desk.catalog.add_model("large-chat", context_tokens=64_000, max_output_tokens=8_192)
    route = desk.catalog.add_route(
        "large-chat",
        provider="beta",
        upstream_model="beta-1",
        position=1,
        weight=1,
        cost_input_usd="0.20",
        cost_output_usd="0.80",
    )
    desk.catalog.propose_price("large-chat", input_usd="0.27", cached_input_usd="0.07", output_usd="1.10").publish(
        reason="spring list"
    )
    desk.catalog.publish("large-chat")
    models = desk.catalog.models().set_index("model")
    assert models.loc["large-chat", "input_usd"] == Decimal("0.27")
    assert models.loc["large-chat", "routes"] == 1
    assert models.loc["large-chat", "published"]
    assert models.loc["small-chat", "keys"] == 1
    desk.catalog.disable_route(route.id)
    desk.catalog.set_route(route.id, position=2, weight=3)
    routes = desk.catalog.routes("large-chat")
    assert list(routes["enabled"]) == [False]
    assert list(routes["cost_output_usd"]) == [Decimal("0.8")]
    assert (routes["position"][0], routes["weight"][0]) == (2, 3)
    desk.catalog.enable_route(route.id)
    desk.catalog.unpublish("large-chat")
    assert list(desk.catalog.providers()["name"]) == ["acme", "beta"]


def test_credits_are_granted_once_a_key(desk: ops.Desk) -> None:
    first = desk.credits.grant(ADA, credits="0.5", reason="gift", grant_key="gift")
    again = desk.credits.grant(ADA, credits="0.5", reason="gift", grant_key="gift")
    assert (first.repeated, again.repeated) == (False, True)
    desk.credits.take_back(ADA, credits=1, reason="back", grant_key="back")
    balances = desk.accounts.balances()
    assert list(balances["balance_nano"]) == [999_500_000_000]
    with pytest.raises(ops.BadInput, match="float"):
        desk.credits.grant(ADA, credits=0.5, reason="gift", grant_key="other")  # type: ignore[arg-type]
    with pytest.raises(ops.InsufficientCredits):
        desk.credits.take_back(ADA, credits="5000", reason="back", grant_key="back-2")


def test_keys_are_issued_listed_and_ended(desk: ops.Desk) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    issued = desk.keys.issue(ADA, name="ci", models=["small-chat"], expires_at=tomorrow)
    assert desk.keys.regenerate(issued.id).secret != issued.secret
    desk.keys.disable(issued.id)
    assert _status(desk, issued.id) == "disabled"
    desk.keys.enable(issued.id)
    assert _status(desk, issued.id) == "active"
    desk.keys.revoke(issued.id)
    assert _status(desk, issued.id) == "revoked"
    row = desk.keys.list(ADA).set_index("id").loc[issued.id]
    assert row["models"] == ["small-chat"]
    assert row["expires_at"] == pd.Timestamp(tomorrow)
    assert not any(issued.secret in str(value) for value in row)


def _status(desk: ops.Desk, key_id: int) -> str:
    return str(desk.keys.list().set_index("id").loc[key_id, "status"])


def test_accounts_are_created_suspended_and_sent_a_link(desk: ops.Desk) -> None:
    desk.accounts.create("Bob@example.com", password="long enough")
    desk.accounts.suspend("bob@example.com")
    balances = desk.accounts.balances().set_index("email")
    assert balances.loc["bob@example.com", "suspended_at"] is not pd.NaT
    assert desk.accounts.resume("bob@example.com").suspended is False
    assert desk.accounts.reset_link("bob@example.com").startswith("/reset/")
    with pytest.raises(ops.AlreadyExists):
        desk.accounts.create("bob@example.com")
    with pytest.raises(ops.NotFound):
        desk.accounts.suspend("nobody@example.com")


def test_limits_name_one_subject(desk: ops.Desk) -> None:
    desk.limits.set(key=1, unit="requests", quota=60, window_s=60)
    desk.limits.set(account=ADA, unit="tokens", quota=1_000)
    desk.limits.set(route=1, unit="concurrent", quota=8)
    desk.limits.set(default="key", unit="requests", quota=600, window_s=60)
    frame = desk.limits.list()
    assert list(frame["subject"]) == ["account", "default_key", "key", "route"]
    assert list(frame["quota"]) == [1_000, 600, 60, 8]
    desk.limits.set(key=1, unit="requests", quota=None)
    assert len(desk.limits.list()) == 3
    for subjects in ({}, {"key": 1, "route": 1}, {"default": "team"}):
        with pytest.raises(ops.BadInput):
            desk.limits.set(**subjects, unit="requests", quota=1)  # type: ignore[arg-type]


def test_usage_records_are_exact_and_chosen_by_time(desk: ops.Desk, address: str) -> None:
    moment = datetime(2030, 6, 15, 23, 59, 59, 999_999, tzinfo=UTC)

    async def serve() -> str:
        async with open_database(parse_url(address)) as database:
            shop = await open_shop(database)
            await shop.serve(Meters(), outcome="failed")
            at_us = int(moment.timestamp()) * 1_000_000 + 999_999
            return await shop.serve(Meters(fresh=3, cached=2, written=1, output=5), at_us=at_us)

    request_id = asyncio.run(serve())
    frame = desk.usage.records()
    assert list(frame.columns)[: len(USAGE)] == USAGE
    (row,) = frame.to_dict("records")
    assert (row["request_id"], row["at"]) == (request_id, pd.Timestamp(moment))
    assert (row["account"], row["model"], row["route"]) == (ADA, "small-chat", "acme/acme-1-small")
    assert row["charge_nano"] == 3 * 27_000 + 2 * 7_000 + 1 * 27_000 + 5 * 110_000
    assert len(desk.usage.records(outcome=None)) == 2
    assert len(desk.usage.records(since="2030-06-15", until="2030-06-16")) == 1
    assert len(desk.usage.records(since=date(2030, 6, 16))) == 0
    assert len(desk.usage.records(since="2030-06-16T01:59:59.999999+02:00", until="2030-06-16")) == 1
    assert len(desk.usage.records(until=moment)) == 0


@sqlite_only
@pytest.mark.parametrize("since", ["2030-06-15T00:00:00", datetime(2030, 6, 15), "yesterday", 5, 1.5])
def test_a_moment_that_nobody_can_place_is_refused(desk: ops.Desk, since: Any) -> None:
    with pytest.raises(ops.BadInput) as refusal:
        desk.usage.records(since=since)
    assert refusal.value.field == "since"


def test_frames_have_their_columns_and_types_with_and_without_rows(desk: ops.Desk, address: str) -> None:
    empty = desk.usage.records(outcome="left")

    async def leave() -> None:
        async with open_database(parse_url(address)) as database:
            await (await open_shop(database)).serve(Meters(fresh=3), outcome="left")

    asyncio.run(leave())
    full = desk.usage.records(outcome="left")
    assert (len(empty), len(full)) == (0, 1)
    assert dict(empty.dtypes) == dict(full.dtypes)
    every = [full, desk.catalog.models(), desk.catalog.prices(), desk.catalog.routes(), desk.accounts.balances()]
    for frame in every:
        assert not any(pd.api.types.is_float_dtype(dtype) for dtype in frame.dtypes)
        assert all(str(frame[name].dtype) == "Int64" for name in frame if str(name).endswith("_nano"))
        assert not any(
            isinstance(value, float) for name in frame if str(name).endswith("_usd") for value in frame[name]
        )
