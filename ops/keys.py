"""Owns the operators' verbs on API keys. The rules are in `models/keys.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from models.ids import now_us
from models.keys import (
    IssuedKey,
    disable_key,
    enable_key,
    issue_key,
    key_rows,
    key_status,
    regenerate_key,
    revoke_key,
    set_key_models,
)
from ops.drawer import Drawer
from ops.frames import EXACT, MOMENT, frame, moment_us

_COLUMNS = {
    "id": "Int64",
    "account": "str",
    "name": "str",
    "hint": "str",
    "models": EXACT,
    "status": "str",
    "created_at": MOMENT,
    "expires_at": MOMENT,
    "disabled_at": MOMENT,
    "revoked_at": MOMENT,
    "last_used_at": MOMENT,
}


class Keys(Drawer):
    """`desk.keys`"""

    def issue(
        self, email: str, *, name: str, models: Sequence[str], expires_at: datetime | str | None = None
    ) -> IssuedKey:
        """A new key that may call `models`. Its `.secret` is not stored: hand it over now."""
        expires_us = moment_us(expires_at, field="expires_at")
        return self._write(issue_key, email, name=name, models=models, expires_us=expires_us)

    def revoke(self, key_id: int, *, reason: str = "") -> None:
        """For good; it answers 401 within a second."""
        self._write(revoke_key, key_id, reason=reason)

    def disable(self, key_id: int, *, reason: str = "") -> None:
        """Until it is enabled again."""
        self._write(disable_key, key_id, reason=reason)

    def enable(self, key_id: int, *, reason: str = "") -> None:
        self._write(enable_key, key_id, reason=reason)

    def regenerate(self, key_id: int, *, grace_s: int = 0, reason: str = "") -> IssuedKey:
        """The same key with a new `.secret`; the old one works for `grace_s` seconds more."""
        return self._write(regenerate_key, key_id, grace_s=grace_s, reason=reason)

    def set_models(self, key_id: int, models: Sequence[str], *, reason: str = "") -> None:
        """Replace the models that the key may call."""
        self._write(set_key_models, key_id, models, reason=reason)

    def list(self, email: str | None = None) -> pd.DataFrame:
        """All keys, or those of one account. `status` is active, disabled, expired or revoked."""
        now = now_us()
        return frame((_named(row, now) for row in self._read(key_rows, email)), _COLUMNS)


def _named(row: dict[str, Any], now: int) -> dict[str, Any]:
    names = ("created", "expires", "disabled", "revoked", "last_used")
    return {**row, **{f"{name}_at": row[f"{name}_us"] for name in names}, "status": key_status(row, now)}
