"""Owns the trace of a notebook that ran by itself: a row of the audit log. Running one is `ops/runs.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.changes import operator_write
from models.checks import check_text
from models.database import Database


async def record_run(
    database: Database,
    operator: str,
    notebook: str,
    parameters: Mapping[str, Any],
    *,
    ok: bool,
    copy: str,
    sha256: str,
    reason: str = "",
) -> None:
    """Who ran which notebook with what, whether it came to its end, and the SHA-256 of the executed copy."""
    name = check_text(notebook, field="notebook", most=200)
    after = {"parameters": dict(parameters), "ok": ok, "copy": copy, "sha256": sha256}
    async with operator_write(database, operator) as write:
        await write.audit("notebook.run", f"notebook {name}", reason=reason, after=after)
