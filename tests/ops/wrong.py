"""Owns one mistake for every verb of `ops` that writes: a call that must be refused, and the words that name field and remedy.

They are made on the small shop of the fixtures, which has ada@example.com, key 1, route 1, and `small-chat` from `acme`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

import ops

ADA, NOBODY = "ada@example.com", "nobody@example.com"
NEW: dict[str, Any] = {
    "provider": "beta",
    "base_url": "https://api.beta.test/v1",
    "key_from": "PROVIDER_API_KEY",
    "upstream_model": "beta-1",
    "context_tokens": 64_000,
    "max_output_tokens": 8_192,
    "cost_input_usd": "0.20",
    "cost_output_usd": "0,80",
}


def _priced(desk: ops.Desk) -> Any:
    return desk.catalog.propose_price(
        "small-chat", input_usd="0.28", cached_input_usd="0.07", output_usd="1.2"
    ).publish(reason="")


def _listed(desk: ops.Desk) -> Any:
    frame = pd.DataFrame([{"model": "small-chat", "input_usd": "0,27", "output_usd": "1"}])
    return desk.catalog.import_prices(frame).publish(reason="list")


def _granted(desk: ops.Desk) -> Any:
    frame = pd.DataFrame([(ADA, "1", "a"), (NOBODY, "1", "b")], columns=["email", "credits", "grant_key"])
    return desk.credits.grants_from(frame).grant(reason="spring")


def _costs(desk: ops.Desk) -> Any:
    listed = {
        f"{row.provider}/{row.upstream_model}": "openai/gpt-4o-mini" for row in desk.catalog.routes().itertuples()
    }
    return desk.catalog.cost_basis(listed_as=listed).publish(reason="")


def _number(desk: ops.Desk) -> Any:
    # As a frame has it: a whole number of numpy's.
    return desk.accounts.find(ADA)["account_id"].iloc[0]


def _rerated(desk: ops.Desk) -> Any:
    preview = desk.rerating.preview("small-chat", price_version=1, since="2026-10-01", until="2026-10-02")
    return preview.post(reason="")


# verb → (the call, what its refusal says)
MISTAKES: dict[str, tuple[Callable[[ops.Desk], Any], str]] = {
    "Accounts.create": (lambda d: d.accounts.create("ada"), r"email: 'ada'"),
    "Accounts.invite": (lambda d: d.accounts.invite(ADA), r"email: .* already"),
    "Accounts.suspend": (lambda d: d.accounts.suspend(NOBODY), r"email: .*nobody@example\.com; create it"),
    "Accounts.resume": (lambda d: d.accounts.resume(NOBODY), r"email: .*nobody@example\.com; create it"),
    "Accounts.erase": (
        lambda d: d.accounts.erase(NOBODY, account_id=_number(d), reason="asked for it"),
        r"email: .*not that of nobody@example\.com, and nothing was erased; accounts\.find",
    ),
    "Accounts.reset_link": (lambda d: d.accounts.reset_link(NOBODY), r"email: .*nobody@example\.com; create it"),
    "Catalog.add_provider": (
        lambda d: d.catalog.add_provider("beta", base_url="api.beta.test", api_key="k"),
        r"base_url: 'api\.beta\.test' is not an address like https://",
    ),
    "Catalog.set_credential": (lambda d: d.catalog.set_credential("acne", api_key="k"), "provider: .*'acne'; "),
    "Catalog.add_model": (
        lambda d: d.catalog.add_model("big chat", context_tokens=9, max_output_tokens=8),
        "alias: .*space",
    ),
    "Catalog.publish": (lambda d: d.catalog.publish("smal-chat"), "model: .*'smal-chat'; "),
    "Catalog.unpublish": (lambda d: d.catalog.unpublish("smal-chat"), "model: .*'smal-chat'; "),
    "Catalog.introduce": (lambda d: d.catalog.introduce("new-chat", **NEW), "cost_output_usd: .*0,80"),
    "Routes.add_route": (
        lambda d: d.catalog.add_route("small-chat", provider="acme", upstream_model="a", cost_input_usd=0.2),  # type: ignore[arg-type]
        "cost_input_usd: give a decimal string",
    ),
    "Routes.set_route": (lambda d: d.catalog.set_route(1, weight=0), "weight: "),
    "Routes.enable_route": (lambda d: d.catalog.enable_route(99), "route: .*99; list them"),
    "Routes.disable_route": (lambda d: d.catalog.disable_route(99), "route: .*99; list them"),
    "Routes.drain_route": (lambda d: d.catalog.drain_route(1, wait_s=-1), "wait_s: "),
    "CostBasis.publish": (_costs, "reason: "),
    "Proposal.publish": (_priced, "reason: "),
    "PriceList.publish": (_listed, r"row 2, column input_usd \(B2\): '0,27' .* write it like"),
    "Prices.cancel_price": (
        lambda d: d.catalog.cancel_price(1, reason="a slip"),
        "price_version: 1 .*; publish another",
    ),
    "Preview.post": (_rerated, "reason: "),
    "Credits.grant": (lambda d: d.credits.grant(ADA, credits="1,5", reason="r", grant_key="k"), "credits: .*1,5"),
    "Credits.take_back": (
        lambda d: d.credits.take_back(ADA, credits="1000.1", reason="r", grant_key="k"),
        "credits: 1000 are available, not 1000.1; take less",
    ),
    "Credits.approve": (lambda d: d.credits.approve(7, reason="r"), "id: .*7 .*; see who waits"),
    "Credits.refuse": (lambda d: d.credits.refuse(7, reason="r"), "id: .*7 .*; see who waits"),
    "GrantsPreview.grant": (_granted, r"row 3: email: .*nobody@example\.com; create it first; nothing was granted"),
    "Vouchers.make": (lambda d: d.vouchers.make("b", credits="0", count=3, reason="r"), "credits: must be above zero"),
    "Vouchers.void": (lambda d: d.vouchers.void("autumn", reason="r"), "name: .*'autumn'; list"),
    "Vouchers.void_one": (lambda d: d.vouchers.void_one(7, reason="r"), "voucher: .*7; list"),
    "Keys.issue": (lambda d: d.keys.issue(ADA, name="k", models=["smal-chat"]), "models: .*'smal-chat'; "),
    "Keys.revoke": (lambda d: d.keys.revoke(99), "key: .*99; list them"),
    "Keys.disable": (lambda d: d.keys.disable(99), "key: .*99; list them"),
    "Keys.enable": (lambda d: d.keys.enable(99), "key: .*99; list them"),
    "Keys.regenerate": (lambda d: d.keys.regenerate(99), "key: .*99; list them"),
    "Keys.set_models": (lambda d: d.keys.set_models(1, ["smal-chat"]), "models: .*'smal-chat'; "),
    "Limits.set": (lambda d: d.limits.set(account=ADA, unit="request", quota=60), "unit: must be one of requests,"),
    "Quarantined.close": (lambda d: d.quarantine.close(7, reason="r"), "id: .*7 .*; list it"),
}
