"""Routes from the desk: draining one, what it costs by a public list, and prices made from that. Every verb twice is once."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import ops
from models.database import open_database, parse_url
from models.ids import now_us
from models.ledger import apply_one
from models.money import Release
from models.prices import Meters
from tests.models.shop import open_shop, sqlite_only


def audits(desk: ops.Desk) -> int:
    rows = desk._session.run(desk._session.database.rows("SELECT COUNT(*) AS n FROM audit"))
    return int(rows[0]["n"])


# ── draining ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_drained_route_says_what_may_still_run_and_when_it_was_last_used(desk: ops.Desk, address: str) -> None:
    async def serve_and_hold() -> tuple[str, int]:
        async with open_database(parse_url(address)) as database:
            shop = await open_shop(database)
            await shop.serve(Meters(fresh=1))
            return await shop.hold(), shop.account_id

    request_id, account_id = asyncio.run(serve_and_hold())
    drained = desk.catalog.drain_route(1, reason="maintenance")
    assert (drained.is_empty, drained.may_run) == (False, 1)
    assert drained.last_used_at is not None
    for text in (repr(drained), drained._repr_html_()):
        assert "is disabled: 1 request may still run on it; last used by a request of 20" in text
    assert list(desk.catalog.routes()["enabled"]) == [False]

    async def release() -> None:
        async with open_database(parse_url(address)) as database, database.transaction() as transaction:
            await apply_one(transaction, Release(request_id, account_id, now_us()))

    done = threading.Thread(target=asyncio.run, args=[release()])
    done.start()
    before = audits(desk)
    assert desk.catalog.drain_route(1, wait_s=30).is_empty
    done.join()
    assert audits(desk) == before


@sqlite_only
def test_a_route_that_was_never_used_is_empty_at_once(desk: ops.Desk) -> None:
    drained = desk.catalog.drain_route(1)
    assert drained.is_empty
    assert "nothing runs on it; not used within 90 days" in repr(drained)
    with pytest.raises(ops.NotFound, match="no route with id 9"):
        desk.catalog.drain_route(9)
    with pytest.raises(ops.BadInput, match="wait_s"):
        desk.catalog.drain_route(1, wait_s=-1)


# ── costs by the public list ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def listed(desk: ops.Desk) -> ops.Desk:
    """Routes of which the list knows one by its provider's address, one by its name, and not that to acme."""
    desk.catalog.add_provider("vendor", base_url="https://api.openai.com/v1", api_key="k")
    desk.catalog.add_provider("mistral", base_url="https://eu.mistral.test/v1", api_key="k")
    desk.catalog.add_route("small-chat", provider="vendor", upstream_model="gpt-4o", cost_input_usd="1", position=2)
    desk.catalog.add_route("small-chat", provider="mistral", upstream_model="mistral-large-latest", position=3)
    return desk


def test_costs_come_from_the_bundled_list_without_a_network(listed: ops.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the list is bundled")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", refuse)
        basis = listed.catalog.cost_basis()
    rows = basis.rows.set_index("route")
    assert list(rows["listed_as"])[1] == "openai/gpt-4o"
    assert list(rows["listed_as"])[2].startswith("mistral/")
    assert rows.loc["vendor/gpt-4o", "cost_input_usd"] == 1
    assert rows.loc["vendor/gpt-4o", "listed_cost_input_usd"] == Decimal("2.5")
    assert rows.loc["vendor/gpt-4o", "listed_cost_cached_input_usd"] == Decimal("1.25")
    assert "not in the public list; listed_as=" in rows.loc["acme/acme-1-small", "note"]
    for text in (repr(basis), basis._repr_html_()):
        assert all(part in text for part in ("1 → 2.5", "– → 10", "2 to change (not published)"))


def test_publishing_costs_twice_is_publishing_them_once(listed: ops.Desk) -> None:
    basis, before = listed.catalog.cost_basis(), audits(listed)
    assert [route.provider for route in basis.publish(reason="list of the month")] == ["vendor", "mistral"]
    assert audits(listed) == before + 2
    basis.publish(reason="list of the month")
    again = listed.catalog.cost_basis()
    assert "0 to change" in repr(again)
    again.publish(reason="list of the month")
    assert audits(listed) == before + 2
    assert listed.catalog.routes().set_index("provider").loc["vendor", "cost_output_usd"] == 10


def test_costs_that_were_changed_meanwhile_are_not_overwritten(listed: ops.Desk) -> None:
    basis, routes = listed.catalog.cost_basis(), listed.catalog.routes().set_index("provider")
    listed.catalog.set_route(int(routes.loc["mistral", "id"]), cost_input_usd="0.01")
    with pytest.raises(ops.Conflict, match="got other costs meanwhile"):
        basis.publish(reason="list")
    assert listed.catalog.routes().set_index("provider").loc["vendor", "cost_input_usd"] == 1


@sqlite_only
def test_a_provider_is_called_in_the_list_as_one_says(listed: ops.Desk) -> None:
    names = {"acme/acme-1-small": "openai/gpt-4o-mini", "mistral": "mistral"}
    row = listed.catalog.cost_basis("small-chat", listed_as=names).rows.set_index("route").loc["acme/acme-1-small"]
    assert (row["listed_as"], row["listed_cost_output_usd"]) == ("openai/gpt-4o-mini", Decimal("0.6"))
    for wrong in ({"nobody": "openai"}, {"acme": "no-such-vendor"}, {"acme": "openai/no-such-model"}):
        with pytest.raises(ops.BadInput) as refusal:
            listed.catalog.cost_basis(listed_as=wrong)
        assert refusal.value.field == "listed_as"
    with pytest.raises(ops.NotFound):
        listed.catalog.cost_basis("no-such")


@sqlite_only
@pytest.mark.parametrize(
    ("vendor", "model", "note"),
    [
        ("https://api.anthropic.com", "claude-sonnet-4-5", "dearer for long inputs"),
        ("https://api.openai.com", "gpt-4o", ""),
    ],
)
def test_what_a_flat_cost_cannot_say_is_noted(desk: ops.Desk, vendor: str, model: str, note: str) -> None:
    desk.catalog.add_provider("v", base_url=vendor, api_key="k")
    desk.catalog.add_route("small-chat", provider="v", upstream_model=model, position=2)
    row = desk.catalog.cost_basis().rows.set_index("route").loc[f"v/{model}"]
    assert row["note"] == note


# ── prices from costs ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_markup_prices_above_the_dearest_route_and_rounds_up(desk: ops.Desk) -> None:
    desk.catalog.set_route(1, cost_input_usd="0.20001", cost_output_usd="0.80", cost_cached_input_usd="0.05")
    proposal = desk.catalog.propose_price("small-chat", markup="30%")
    assert [(line.meter, line.new) for line in proposal.lines] == [
        ("input", 26_002),
        ("cached input", 6_500),
        ("cache write", 26_002),
        ("output", 104_000),
    ]
    assert "+23.1 %" in repr(proposal)
    assert proposal.warnings == []
    given = desk.catalog.propose_price("small-chat", markup="30%", output_usd="2")
    assert [line.new for line in given.lines][3] == 200_000
    with pytest.raises(ops.BadInput, match="input_usd: is missing"):
        desk.catalog.propose_price("small-chat")


# ── twice is once ─────────────────────────────────────────────────────────────────────────────────────────────────

VERBS: dict[str, Callable[[ops.Desk], Any]] = {
    "publish": lambda desk: desk.catalog.publish("small-chat"),
    "unpublish": lambda desk: desk.catalog.unpublish("small-chat"),
    "set_credential": lambda desk: desk.catalog.set_credential("acme", api_key="another"),
    "set_route": lambda desk: desk.catalog.set_route(1, position=3, weight=2, cost_input_usd="0.1"),
    "disable_route": lambda desk: desk.catalog.disable_route(1),
    "enable_route": lambda desk: desk.catalog.enable_route(1),
    "set_limit": lambda desk: desk.limits.set(route=1, unit="requests", quota=5),
    "publish_price": lambda desk: desk.catalog.propose_price("small-chat", input_usd="0.2", output_usd="1").publish(
        reason="list"
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_said_twice_is_said_once(desk: ops.Desk, verb: str) -> None:
    VERBS[verb](desk)
    frames = [desk.catalog.models(), desk.catalog.prices(history=True), desk.catalog.routes(), desk.limits.list()]
    before = audits(desk)
    VERBS[verb](desk)
    after = [desk.catalog.models(), desk.catalog.prices(history=True), desk.catalog.routes(), desk.limits.list()]
    assert audits(desk) == before
    assert all(one.equals(other) for one, other in zip(frames, after, strict=True))


def test_a_price_dated_ahead_is_cancelled_from_the_desk(desk: ops.Desk) -> None:
    price = desk.catalog.propose_price("small-chat", input_usd="0.2", output_usd="1", effective_from="2099-01-01")
    version = price.publish(reason="list").id
    stale = desk.catalog.propose_price("small-chat", input_usd="0.2", output_usd="1.1", effective_from="2099-01-02")
    desk.catalog.cancel_price(version, reason="too early")
    desk.catalog.cancel_price(version, reason="too early")
    prices = desk.catalog.prices(history=True)
    assert list(prices["status"]) == ["current", "cancelled"]
    assert list(desk.catalog.prices()["status"]) == ["current"]
    assert prices["cancelled_by"][1] == "olga"
    with pytest.raises(ops.Conflict, match="propose again"):
        stale.publish(reason="list")
