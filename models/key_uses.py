"""Owns writing down when keys were last used. That is known in the workers' memory, and is stored behind the requests."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from models.database import Database

_AT_ONCE = 5_000


async def note_uses(database: Database, uses: Mapping[int, int]) -> None:
    """Store by the key's id the moment of its last use. A later moment that is stored already stays.

    No row of the change feed: nobody must act on it.
    """
    pairs = iter(uses.items())
    while some := list(islice(pairs, _AT_ONCE)):
        # Whole numbers of our own, so they may stand in the text: both databases take values only up to some number.
        rows = ", ".join(f"({int(key_id)}, {int(at_us)})" for key_id, at_us in some)
        tests = "k.id = used.key_id AND (k.last_used_us IS NULL OR k.last_used_us < used.at_us)"
        chosen = f"SELECT k.id, used.at_us FROM api_key k JOIN used ON {tests}"
        if database.dialect == "postgres":
            # In the order in which every worker takes them, so that no two of them wait for each other.
            chosen += " ORDER BY k.id FOR NO KEY UPDATE OF k"
        await database.connection.execute_query(
            f"WITH used (key_id, at_us) AS (VALUES {rows}), chosen AS ({chosen})"
            " UPDATE api_key SET last_used_us = chosen.at_us FROM chosen WHERE api_key.id = chosen.id"
        )
