"""Owns an invoice to practise on: what a provider should bill, with one mistake in it, as a CSV in their columns."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ops.invoices import InvoiceCheck

if TYPE_CHECKING:
    from ops.desk import Desk

# Ours → how this imagined provider calls them.
COLUMNS = {
    "day": "Date",
    "model": "Model",
    "requests": "Requests",
    "input_tokens": "Input tokens",
    "output_tokens": "Output tokens",
    "amount_usd": "Cost (USD)",
}


def practice_invoice(desk: Desk, provider: str, month: str) -> InvoiceCheck:
    """Write such an invoice, in which the day in the middle is billed twice, and compare it. An empty month has none."""
    expected = desk.reports.expected_invoice(provider, month)[list(COLUMNS)]
    if expected.empty:
        return InvoiceCheck(provider, month, tuple(COLUMNS)[2:], [], 0)
    rows = expected.rename(columns=COLUMNS).to_dict("records")
    rows[len(rows) // 2][COLUMNS["amount_usd"]] *= 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{provider}.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        return desk.reports.invoice(path, provider=provider, month=month, columns=COLUMNS)
