"""Looking at a price before it is published: what it shows, what it warns of, and that it is published once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import ops
from tests.models.shop import sqlite_only

# `small-chat` is sold at 0.27, 0.07 cached and 1.10 USD per million tokens.
SAME = {"input_usd": "0.27", "cached_input_usd": "0.07", "cache_write_usd": "0.27", "output_usd": "1.10"}


def propose(desk: ops.Desk, model: str = "small-chat", **usd: Any) -> ops.Proposal:
    return desk.catalog.propose_price(model, **{**SAME, **usd})


def count(desk: ops.Desk) -> int:
    return len(desk.catalog.prices(history=True))


def test_a_proposal_shows_old_new_percent_and_who_is_affected(desk: ops.Desk) -> None:
    proposal = propose(desk, input_usd="0.54", output_usd="0.99")
    for text in (repr(proposal), proposal._repr_html_()):
        assert all(part in text for part in ("0.27", "0.54", "+100.0 %", "1.1", "0.99", "-10.0 %", "0 %"))
        assert "affects 1 key of 1 account" in text
        assert "not published" in text
    assert proposal.warnings == []
    assert count(desk) == 1


def test_publishing_takes_effect_once(desk: ops.Desk) -> None:
    proposal = propose(desk, input_usd="0.54")
    published = proposal.publish(reason="spring list")
    assert proposal.publish(reason="spring list") == published
    assert count(desk) == 2
    assert f"published as version {published.id}" in repr(proposal)
    prices = desk.catalog.prices(history=True)
    assert list(prices["status"]) == ["past", "current"]
    assert list(prices["reason"]) == ["spring list", "spring list"]
    assert list(prices["operator"]) == ["olga", "olga"]


def test_a_stale_proposal_is_refused(desk: ops.Desk) -> None:
    first, second = propose(desk, input_usd="0.30"), propose(desk, input_usd="0.40")
    first.publish(reason="first")
    with pytest.raises(ops.Conflict, match="propose again"):
        second.publish(reason="second")
    assert count(desk) == 2
    propose(desk, input_usd="0.40").publish(reason="second")


def test_a_slip_of_units_needs_an_explicit_yes(desk: ops.Desk) -> None:
    proposal = propose(desk, input_usd="270", output_usd="1100")
    assert len(proposal.warnings) == 2
    assert "factor of 3" in proposal.warnings[0]
    with pytest.raises(ops.NeedsConfirmation, match="accept_warnings=True"):
        proposal.publish(reason="spring list")
    assert count(desk) == 1
    proposal.publish(reason="yes, really", accept_warnings=True)
    assert count(desk) == 2


@sqlite_only
@pytest.mark.parametrize(
    ("usd", "warned"),
    [
        ({"input_usd": "0.81"}, False),
        ({"input_usd": "0.81001"}, True),
        ({"input_usd": "0.09"}, False),
        ({"input_usd": "0.08999"}, True),
        ({"output_usd": "0"}, True),
        ({"tiers": [{"above_tokens": 9, **SAME, "output_usd": "3.4"}]}, True),
        ({"windows": [{"start": "00:00", "end": "00:30", **SAME, "input_usd": "0.01"}]}, True),
    ],
)
def test_more_than_a_factor_of_three_either_way_is_warned_of(desk: ops.Desk, usd: Any, warned: bool) -> None:
    assert bool(propose(desk, **usd).warnings) == warned


def test_a_price_below_the_cost_of_an_enabled_route_is_warned_of(desk: ops.Desk) -> None:
    desk.catalog.add_model("large-chat", context_tokens=9, max_output_tokens=9)
    route = desk.catalog.add_route(
        "large-chat", provider="acme", upstream_model="acme-2", cost_input_usd="0.20", cost_output_usd="1.20"
    )
    proposal = propose(desk, "large-chat")
    assert len(proposal.warnings) == 1
    assert f"below the cost of route {route.id} (acme/acme-2), 1.2" in proposal.warnings[0]
    with pytest.raises(ops.NeedsConfirmation):
        proposal.publish(reason="list")
    desk.catalog.disable_route(route.id)
    assert propose(desk, "large-chat").warnings == []


def test_a_first_price_not_below_cost_never_warns(desk: ops.Desk) -> None:
    desk.catalog.add_model("large-chat", context_tokens=9, max_output_tokens=9)
    desk.catalog.add_route(
        "large-chat", provider="acme", upstream_model="acme-2", cost_input_usd="0.20", cost_output_usd="0.80"
    )
    proposal = propose(desk, "large-chat", input_usd="9000")
    assert proposal.warnings == []
    assert "new" in repr(proposal)
    proposal.publish(reason="first list")


def test_a_dated_price_waits_and_the_past_is_refused(desk: ops.Desk) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    propose(desk, input_usd="0.30", effective_from=tomorrow.isoformat()).publish(reason="from tomorrow on")
    assert list(desk.catalog.prices()["status"]) == ["current", "scheduled"]
    later = propose(desk, input_usd="0.60", effective_from=tomorrow + timedelta(days=1))
    assert any(line.old == 30_000 and line.new == 60_000 for line in later.lines)
    for moment in (tomorrow - timedelta(days=2), datetime.now(), "2020-01-01"):
        with pytest.raises(ops.BadInput) as refusal:
            propose(desk, effective_from=moment)
        assert refusal.value.field == "effective_from"


@sqlite_only
def test_bad_prices_and_unknown_models_are_refused_when_proposed(desk: ops.Desk) -> None:
    with pytest.raises(ops.BadInput, match="input_usd"):
        propose(desk, input_usd=0.27)
    with pytest.raises(ops.BadInput, match="decimals"):
        propose(desk, input_usd="0.000001")
    with pytest.raises(ops.NotFound, match="no-such"):
        propose(desk, "no-such")
    with pytest.raises(ops.BadInput, match="reason"):
        propose(desk, input_usd="0.28").publish(reason=" ")


@sqlite_only
def test_markup_in_a_name_is_shown_as_text(desk: ops.Desk) -> None:
    desk.catalog.add_model("<script>alert(1)</script>", context_tokens=9, max_output_tokens=9)
    assert "<script>" not in propose(desk, "<script>alert(1)</script>")._repr_html_()
