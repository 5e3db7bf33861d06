"""Owns the operators' desk: opening one, and what stands on it. The verbs are in the files named after its drawers."""

from __future__ import annotations

import html
from functools import cached_property
from types import TracebackType

import pandas as pd

from models.approvals import approval_above_nano
from models.environment import operator_name, variables
from models.invariants import check_invariants
from models.prices import credits_text
from models.secrets import Seal, load_secret_key
from ops.accounts import Accounts
from ops.audit import AuditLog
from ops.catalog import Catalog
from ops.credits import Credits
from ops.environments import Environment, choose_environment, environment_rows
from ops.frames import EXACT, frame
from ops.guard import Guard
from ops.keys import Keys
from ops.limits import Limits
from ops.quarantine import Quarantined
from ops.reports import Reports
from ops.rerating import Rerating
from ops.session import Session
from ops.usage import UsageRecords
from ops.vouchers import Vouchers


def connect(database_url: str | None = None, operator: str | None = None, *, environment: str | None = None) -> Desk:
    """A desk on an environment of `ops.toml`, or on a database.

    `environment` names one, else OPS_ENVIRONMENT does; without any it is the database of `database_url`, else of
    GATEWAY_DATABASE_URL, else `sqlite://var/gateway.db`. `operator` signs the audit log: else OPS_OPERATOR, else the
    environment's, else the name you are logged in with. Variables may stand in the project's `.env`. Raises SetupError
    when the file is wrong, or the database is missing or needs `gateway migrate`.
    """
    settings = variables()
    chosen = choose_environment(settings, database_url=database_url, name=environment)
    signs = operator_name(operator or settings.get("OPS_OPERATOR") or chosen.operator)
    approval_above_nano(chosen.approval_above_nano)  # A bound that nobody understands is heard of now.
    return Desk(Session(chosen.url), signs, chosen)


def environments() -> pd.DataFrame:
    """The environments of `ops.toml`: which database each is, and what guards it."""
    kinds = {"environment": "str", "database": "str", "protected": "boolean", "approval_above": EXACT}
    return frame(environment_rows(variables()), kinds)


class Desk:
    """One operator at one database. Close it, or use it in a `with` statement; a script that ends closes it too."""

    def __init__(self, session: Session, operator: str, environment: Environment) -> None:
        self.operator = operator
        self.environment = environment.name
        self._session = session
        self._secret_key = environment.secret_key
        self._approval_above_nano = environment.approval_above_nano
        self._guard = Guard(environment)
        self.catalog = Catalog(self)
        self.accounts = Accounts(self)
        self.credits = Credits(self)
        self.vouchers = Vouchers(self)
        self.keys = Keys(self)
        self.limits = Limits(self)
        self.usage = UsageRecords(self)
        self.rerating = Rerating(self)
        self.audit = AuditLog(self)
        self.reports = Reports(self)
        self.quarantine = Quarantined(self)

    def unlock(self, environment: str) -> None:
        """Allow this desk to write to a protected environment, by its name typed out."""
        self._guard.unlock(environment)

    def reconcile(self) -> pd.DataFrame:
        """Every money invariant, a row each, over one snapshot; all is well when `ok` is True in all of them."""
        findings = self._session.run(check_invariants(self._session.database))
        rows = [{"number": f.number, "invariant": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
        return frame(rows, {"number": "Int64", "invariant": "str", "ok": "boolean", "detail": "str"})

    def close(self) -> None:
        """Close the database. Twice does nothing."""
        self._session.close()

    @cached_property
    def _seal(self) -> Seal:
        # Only verbs that touch credentials need the secret key, so reading works without it.
        url = self._session.database.url
        return Seal(load_secret_key(url, self._secret_key, create=url.dialect == "sqlite"))

    def __enter__(self) -> Desk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Desk({self._banner})"

    def _repr_html_(self) -> str:
        color = {None: "#57606a", True: "#cf222e", False: "#9a6700"}[self._guard.locked if self.environment else None]
        style = f"border-left:6px solid {color};padding:6px 12px;font-weight:bold;color:{color}"
        return f'<div style="{style}">{html.escape(self._banner)}</div>'

    @property
    def _banner(self) -> str:
        parts = [] if self.environment is None else [self.environment.upper()]
        if self._guard.locked:
            parts.append(f'protected: to write, desk.unlock("{self.environment}")')
        parts += [self._session.database.url.shown, f"operator {self.operator}"]
        above = approval_above_nano(self._approval_above_nano)
        if above is not None:
            parts.append(f"grants above {credits_text(above)} credits need a second operator")
        return " · ".join(parts)
