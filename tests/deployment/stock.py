"""A small business for a release's database: written by its own operators' verbs, so it imports nothing of the tests.

    python stock.py PROVIDER_URL        prints its keys, {name: secret}

Run with the release's code on the path. `UPSTREAMS` says what its provider does with each alias.
"""

from __future__ import annotations

import json
import sys
from typing import Any

UPSTREAMS = {
    "small-chat": "sim:words=12",
    "long-chat": "sim:prompt=9000,cached=4000,completion=700",
    "thinking-chat": "sim:prompt=40,completion=90,reasoning=60",
    "failing-chat": "sim:status=500",
    "cut-chat": "sim:words=8,cut=3",
    "slow-chat": "sim:words=30,gap_ms=20",
    "gated-chat": "sim:words=4,gate,tag=drill",
    "estimated-chat": "sim:words=9,usage=none",
}
TIERED: dict[str, Any] = {
    "input_usd": "0.60",
    "cached_input_usd": "0.15",
    "cache_write_usd": "0.75",
    "output_usd": "2.40",
    "tiers": [{"above_tokens": 8_000, "input_usd": "1.20", "output_usd": "4.80"}],
    "windows": [{"start": "16:30", "end": "00:30", "input_usd": "0.30", "output_usd": "1.20"}],
}


def fill(desk: Any, provider_url: str) -> dict[str, str]:
    desk.catalog.add_provider("vendor", base_url=provider_url, api_key="credential-of-a-recorded-release")
    for alias, upstream_model in UPSTREAMS.items():
        desk.catalog.add_model(alias, context_tokens=64_000, max_output_tokens=8_192, published=True)
        desk.catalog.add_route(
            alias, provider="vendor", upstream_model=upstream_model, cost_input_usd="0.10", cost_output_usd="0.30"
        )
        desk.catalog.propose_price(alias, input_usd="0.27", output_usd="1.10").publish(
            reason="list price", accept_warnings=True
        )
    desk.catalog.propose_price("long-chat", **TIERED).publish(reason="dearer", accept_warnings=True)
    desk.catalog.propose_price(
        "small-chat", input_usd="9.99", output_usd="9.99", effective_from="2100-01-01T00:00:00Z"
    ).publish(reason="dated ahead", accept_warnings=True)

    for name in ("ada", "bob", "zoe"):
        desk.accounts.create(f"{name}@example.com", password=f"the long password of {name}")
    desk.credits.grant("ada@example.com", credits="1000", reason="welcome", grant_key="welcome-ada")
    desk.credits.grant("ada@example.com", credits="0.123456789", reason="to the last digit", grant_key="digits-ada")
    desk.credits.grant("bob@example.com", credits="0.1", reason="nearly nothing", grant_key="welcome-bob")

    every = list(UPSTREAMS)
    issued = {
        "ada": desk.keys.issue("ada@example.com", name="all of them", models=every),
        "narrow": desk.keys.issue("ada@example.com", name="one alone", models=["small-chat"]),
        "disabled": desk.keys.issue("ada@example.com", name="disabled", models=every),
        "revoked": desk.keys.issue("ada@example.com", name="revoked", models=every),
        "bob": desk.keys.issue("bob@example.com", name="bob's", models=every),
    }
    desk.keys.disable(issued["disabled"].id, reason="for now")
    desk.keys.revoke(issued["revoked"].id, reason="for good")
    desk.limits.set(key=issued["narrow"].id, unit="requests", quota=2, window_s=3600)
    return {name: key.secret for name, key in issued.items()}


if __name__ == "__main__":
    import ops

    with ops.connect(operator="the release") as opened:
        print(json.dumps(fill(opened, sys.argv[1])))
