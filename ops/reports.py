"""Owns the operators' verbs for statements, a month's billing export and a provider's invoice. What they return is in
`statements.py`, `month_report.py` and `invoices.py`; verifying an export without a database is `verifier.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pandas as pd

from models.accounts import find_account
from models.catalog import provider_rows
from models.database import Database, open_snapshot
from models.environment import variables
from models.errors import BadInput
from models.ids import to_datetime
from models.month_lines import MonthTotals, month_totals
from models.months import CLOSES_AFTER_US, Month, month_of, parse_month
from models.price_list import database_now_us
from models.provider_usage import provider_usage
from models.statements import Statement, month_statement
from models.usage import newest_at_us
from ops.billing_months import BillingMonth, billing_month
from ops.drawer import Drawer
from ops.invoices import InvoiceCheck, compare_invoice, costs_frame, invoice_frame
from ops.month_report import MonthReport
from ops.statements import AccountStatement


class Reports(Drawer):
    """`desk.reports`. A month is a text like "2026-11", in UTC, by the transfer's time; it closes one hour after its end."""

    def billing_month(self, month: str | None = None) -> BillingMonth:
        """A month as a value, to hand to other verbs; without a name the newest closed one with usage, else the running one."""
        return self._read(_billing_month, None if month is None else parse_month(month, field="month"))

    def statement(self, email: str, month: str) -> AccountStatement:
        """One account's month: opening balance, movements, closing balance. Provisional while the month is not closed."""
        bounds = parse_month(month, field="month")
        address, found = self._read(_statement, email, bounds)
        return AccountStatement(address, bounds, found, _brand())

    def month(self, month: str, *, provisional: bool = False) -> MonthReport:
        """Everybody's month, to be exported with a line for every transfer.

        Raises BadInput for a month that is not closed, unless `provisional` says that it shall be done all the same.
        """
        bounds = parse_month(month, field="month")
        closed, totals = self._read(_month, bounds)
        if not closed and not provisional:
            raise BadInput(
                f"month: {bounds} is not closed before {to_datetime(bounds.end_us + CLOSES_AFTER_US):%Y-%m-%d %H:%M} UTC;"
                " wait, or pass provisional=True",
                field="month",
            )
        return MonthReport(self._desk, bounds, closed, totals, _brand())

    def provider_costs(self, month: str) -> pd.DataFrame:
        """What each provider should bill us for a month, in USD, the dearest first."""
        return self._read(_provider_costs, parse_month(month, field="month"))

    def expected_invoice(self, provider: str, month: str) -> pd.DataFrame:
        """What a provider should bill us for a month, by day and model: its invoice, as our records have it."""
        return invoice_frame(self._read(provider_usage, provider, parse_month(month, field="month")))

    def invoice(
        self,
        path: str | Path,
        *,
        provider: str,
        month: str,
        columns: Mapping[str, str] | None = None,
        tolerance_usd: str | int | Decimal = 0,
        tolerance_count: int = 0,
    ) -> InvoiceCheck:
        """Compare a provider's invoice (CSV) with our records, and name each difference. `columns`: see `invoices.py`."""
        bounds = parse_month(month, field="month")
        used = self._read(provider_usage, provider, bounds)
        return compare_invoice(
            Path(path),
            provider,
            bounds,
            used,
            columns=columns,
            tolerance_usd=tolerance_usd,
            tolerance_count=tolerance_count,
        )


async def _billing_month(database: Database, month: Month | None) -> BillingMonth:
    now_us = await database_now_us(database)
    if month is None:
        running = month_of(now_us - CLOSES_AFTER_US)
        used = await newest_at_us(database, running.lowest_id)
        month = month_of(now_us) if used is None else month_of(used)
    return billing_month(month, now_us)


async def _statement(database: Database, email: str, month: Month) -> tuple[str, Statement]:
    account = await find_account(database, email)
    return account.email, await month_statement(database, account.id, month)


async def _provider_costs(database: Database, month: Month) -> pd.DataFrame:
    names = [row["name"] for row in await provider_rows(database)]
    return costs_frame({name: await provider_usage(database, name, month) for name in names})


async def _month(database: Database, month: Month) -> tuple[bool, MonthTotals]:
    async with open_snapshot(database) as snapshot:
        now_us = await database_now_us(snapshot)
        if month.start_us > now_us:
            raise BadInput(f"month: {month} is still to come", field="month")
        return month.is_closed(now_us), await month_totals(snapshot, month)


def _brand() -> str:
    return variables().get("GATEWAY_BRAND") or "SuperTomorrow"
