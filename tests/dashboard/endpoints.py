"""Owns the walk over every endpoint of the dashboard, those of tomorrow included, and what the database holds meanwhile."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from gateway.app import create_app
from gateway.settings import Settings
from tests.rig import Rig

# What workers write by themselves, whoever looks at a page: table → columns; None for all of it.
_BY_ITSELF: dict[str, set[str] | None] = {
    "epoch": None,
    "session": {"seen_us"},
    "api_key": {"last_used_us"},
    "orm_migrations": None,
    "tortoise_migrations": None,
}
# Of what requests write, those that other tests have left running write on: so by account.
_OF_ACCOUNT = {"hold": "account_id", "transfer": "credit_account", "usage": "account_id"}


@dataclass(frozen=True)
class Endpoint:
    """One method at one address, as `/keys/<key_id:int>`; `parameters` are names and kinds, in their order."""

    method: str
    path: str
    parameters: tuple[tuple[str, str], ...]

    def at(self, **values: Any) -> str:
        """The address with these values in it."""
        path = self.path
        for name, kind in self.parameters:
            path = path.replace(f"<{name}:{kind}>", str(values[name]))
        return path


@functools.cache
def endpoints() -> tuple[Endpoint, ...]:
    """Every endpoint but those of `/v1` and files, from the very router that serves them."""
    settings = Settings(stripe_secret_key="sk_test_x", stripe_webhook_secret="whsec_x", _env_file=None)  # type: ignore
    app = create_app(settings, name="endpoints")
    app.finalize()
    found = [
        Endpoint(method, "/" + route.path, tuple((p.name, p.label) for p in route.params.values()))
        for route in app.router.routes
        for method in sorted(route.methods)
        if not route.path.startswith(("v1/", "static/"))
    ]
    return tuple(sorted(found, key=lambda one: (one.path, one.method)))


def posts() -> list[Endpoint]:
    return [one for one in endpoints() if one.method == "POST"]


def gets() -> list[Endpoint]:
    return [one for one in endpoints() if one.method == "GET"]


def contents(rig: Rig, *account_ids: int) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table; of the ledger's, those of these accounts."""
    found = {}
    for table, columns in tables(rig).items():
        ignored = _BY_ITSELF.get(table, set())
        if ignored is None or table.startswith("usage_"):
            continue
        kept = ", ".join(f'"{name}"' for name in columns if name not in ignored)
        where = f" WHERE {_OF_ACCOUNT[table]} IN ({', '.join(map(str, account_ids))})" if table in _OF_ACCOUNT else ""
        found[table] = sorted(rig.sql(f'SELECT {kept} FROM "{table}"{where}'), key=repr)
    return found


def tables(rig: Rig) -> dict[str, list[str]]:
    """Every table of the database itself, with its columns."""
    if rig.database_url.startswith("sqlite"):
        names = rig.sql(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        return {name: [c for (c,) in rig.sql(f"SELECT name FROM pragma_table_info('{name}')")] for (name,) in names}
    rows = rig.sql(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    )
    found: dict[str, list[str]] = {}
    for table, column in rows:
        found.setdefault(table, []).append(column)
    return found
