"""Owns the operators' verbs on limits. The rules are in `models/limits.py`."""

from __future__ import annotations

import pandas as pd

from models.accounts import find_account
from models.errors import BadInput
from models.limits import SUBJECTS, limit_rows, set_limit
from ops.drawer import Drawer
from ops.frames import frame

_COLUMNS = {
    "subject": "str",
    "subject_id": "Int64",
    "name": "str",
    "unit": "str",
    "quota": "Int64",
    "window_s": "Int64",
}


class Limits(Drawer):
    """`desk.limits`"""

    def set(
        self,
        *,
        key: int | None = None,
        account: str | None = None,
        route: int | None = None,
        default: str | None = None,
        unit: str,
        quota: int | None,
        window_s: int = 60,
        reason: str = "",
    ) -> None:
        """At most `quota` of `unit` (requests, tokens, or concurrent) in `window_s` seconds; None removes the limit.

        Name one subject: a key's or a route's id, an account's e-mail, or `default="key"`, `"account"`, `"route"` for
        those without a limit of their own.
        """
        given = {"key": key, "account": account, "route": route, "default": default}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise BadInput("name one of key=, account=, route= and default=", field="subject")
        subject, subject_id = named[0], key or route or 0
        if default is not None:
            if default not in SUBJECTS:
                raise BadInput(f"default: must be one of {', '.join(SUBJECTS)}, got {default!r}", field="default")
            subject = f"default_{default}"
        if account is not None:
            subject_id = self._read(find_account, account).id
        self._write(
            set_limit, subject=subject, subject_id=subject_id, unit=unit, quota=quota, window_s=window_s, reason=reason
        )

    def list(self) -> pd.DataFrame:
        """Every limit; `concurrent` ones have no window."""
        return frame(self._read(limit_rows), _COLUMNS)
