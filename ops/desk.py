"""Owns the operators' desk: opening one, and what stands on it. The verbs are in the files named after its drawers."""

from __future__ import annotations

import getpass
import os
from functools import cached_property
from types import TracebackType

import pandas as pd
from dotenv import dotenv_values

from models.checks import check_text
from models.database import DEFAULT_URL, parse_url, project_folder
from models.invariants import check_invariants
from models.secrets import Seal, load_secret_key
from ops.accounts import Accounts
from ops.catalog import Catalog
from ops.credits import Credits
from ops.frames import frame
from ops.keys import Keys
from ops.limits import Limits
from ops.session import Session
from ops.usage import UsageRecords


def connect(database_url: str | None = None, operator: str | None = None) -> Desk:
    """A desk on the database of `database_url`, else GATEWAY_DATABASE_URL, else `sqlite://var/gateway.db`.

    `operator` signs the audit log: else OPS_OPERATOR, else the name you are logged in with. Variables may stand in the
    project's `.env`. Raises SetupError when the database is missing or needs `gateway migrate`.
    """
    settings = _settings()
    url = parse_url(database_url or settings.get("GATEWAY_DATABASE_URL") or DEFAULT_URL)
    name = check_text(operator or settings.get("OPS_OPERATOR") or getpass.getuser(), field="operator", most=200)
    return Desk(Session(url), name, settings.get("GATEWAY_SECRET_KEY"))


class Desk:
    """One operator at one database. Close it, or use it in a `with` statement; a script that ends closes it too."""

    def __init__(self, session: Session, operator: str, secret_key: str | None) -> None:
        self.operator = operator
        self._session = session
        self._secret_key = secret_key
        self.catalog = Catalog(self)
        self.accounts = Accounts(self)
        self.credits = Credits(self)
        self.keys = Keys(self)
        self.limits = Limits(self)
        self.usage = UsageRecords(self)

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
        return f"Desk({self._session.database.url.shown!r}, operator={self.operator!r})"


def _settings() -> dict[str, str]:
    """The environment over the project's `.env`; an empty variable is unset."""
    given = {**dotenv_values(project_folder() / ".env"), **os.environ}
    return {name: value for name, value in given.items() if value}
