"""Requests for tests of what they cost, written into the database as they are given: prices of every kind, and odd records."""

from __future__ import annotations

import random
from typing import Any

from models.bands import MOST_TOKENS
from models.database import Database
from models.ids import new_request_id
from models.price_terms import price_from_usd
from models.prices import Meters, PriceVersion

MINUTE_US = 60_000_000
AT_US = 1_800_000_000_000_000
PRICES = [
    price_from_usd(input_usd="0.27", cached_input_usd="0.07", output_usd="1.10"),
    price_from_usd(
        input_usd="1",
        output_usd="2",
        tiers=[
            {"above_tokens": 1_000, "input_usd": "3", "output_usd": "5"},
            {"above_tokens": 2_000, "input_usd": "7", "cached_input_usd": "0.5", "output_usd": "11"},
        ],
    ),
    price_from_usd(
        input_usd="1",
        output_usd="2",
        tiers=[{"above_tokens": 1_500, "input_usd": "3", "output_usd": "5"}],
        windows=[
            {"start": "16:30", "end": "00:30", "input_usd": "0.5", "output_usd": "0.7"},
            {
                "start": "06:00",
                "end": "07:00",
                "input_usd": "0.9",
                "output_usd": "1",
                "tiers": [{"above_tokens": 100, "input_usd": "0.8", "output_usd": "4"}],
            },
        ],
    ),
    price_from_usd(input_usd="10000", output_usd="10000"),
]
EDGES = [0, 1, 100, 101, 1_000, 1_001, 1_500, 2_000, 2_001, 50_000]


def versions() -> list[PriceVersion]:
    return [PriceVersion(n, AT_US, price.tiers, price.windows) for n, price in enumerate(PRICES, 101)]


async def write(database: Database, rows: list[dict[str, Any]]) -> None:
    """Records and their holds as they are given, however wrong."""
    for row in rows:
        moment = row["at_us"]
        usage = [row["id"], moment, 1, 1, 1, 1, row["price"], "served", False, row["estimated"], *row["tokens"]]
        usage += [1, 1, 1, "[]", row["charge"], row["writeoff"]]
        marks = ", ".join("?" * len(usage))
        await database.connection.execute_query(database.placed(f"INSERT INTO usage VALUES ({marks})"), usage)
        if row["hold"] is not None:
            hold = [row["id"], 1, row["held"], "captured", row["hold"], 1, row["held_at"], moment]
            marks = ", ".join("?" * len(hold))
            await database.connection.execute_query(database.placed(f"INSERT INTO hold VALUES ({marks})"), hold)


def request(chance: random.Random, n: int) -> dict[str, Any]:
    """One request, right three times in four."""
    price = chance.choice(versions())
    held_at = AT_US + chance.randrange(1_440) * MINUTE_US + chance.choice([0, 1, MINUTE_US - 1])
    tokens = [chance.choice(EDGES), chance.choice(EDGES), chance.choice([0, 1, 99]), chance.choice(EDGES)]
    charge = price.charge_nano(Meters(*tokens), held_at)
    writeoff = chance.choice([0, 0, charge // 3])
    row = {
        "id": new_request_id(AT_US + n),
        "at_us": held_at + 5,
        "price": price.id,
        "hold": price.id,
        "held_at": held_at,
        "held": charge,
        "tokens": tokens,
        "charge": charge - writeoff,
        "writeoff": writeoff,
        "estimated": chance.random() < 0.1,
    }
    if chance.random() < 0.25:
        field, value = chance.choice(
            [
                ("charge", row["charge"] + 1),
                ("hold", None),
                ("hold", 999),
                ("hold", 101),
                ("held_at", AT_US - 1),
                ("held_at", held_at + 90 * MINUTE_US),
                ("held", charge - 1),
                ("tokens", [2**61, 2**61, 2**61, 2**61]),
                ("tokens", [-(2**61), *tokens[1:]]),
                ("tokens", [MOST_TOKENS, MOST_TOKENS, MOST_TOKENS, MOST_TOKENS]),
                ("tokens", [-1, 1, 0, 0]),
                ("charge", 2**62),
            ]
        )
        row[field] = value
    return row
