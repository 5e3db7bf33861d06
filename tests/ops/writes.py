"""Owns one example of every verb of `ops` that writes, and finding those that have none.

An example prepares what its verb needs, with names of its own, and returns the call itself. `RENEWS` are the verbs that by
their nature make something new each time they are called; all others have, called twice, the effect of once.
"""

from __future__ import annotations

import ast
import inspect
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tortoise.models import Model

import ops
from models import records
from models.database import Database
from models.prices import Meters
from tests.models.shop import open_shop
from tests.stores import Sql

Call = Callable[[], Any]
Example = Callable[[ops.Desk], Call]
# How many rows of the audit log a verb that is made of others leaves; one is the rule.
SIGNS = {"Catalog.introduce": 3}
RENEWS = {"Accounts.invite", "Accounts.reset_link", "Keys.issue", "Keys.regenerate"}


def _name(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(4)}"


def _provider() -> dict[str, str]:
    return {"name": _name("provider"), "base_url": "https://api.beta.test/v1", "api_key": "k"}


def _model() -> dict[str, Any]:
    return {"alias": _name("model"), "context_tokens": 64_000, "max_output_tokens": 8_192}


def _new_account(desk: ops.Desk) -> str:
    email = _name("ada") + "@example.com"
    desk.accounts.create(email)
    desk.credits.grant(email, credits="100", reason="test", grant_key=_name("key"))
    return email


def _new_key(desk: ops.Desk) -> int:
    return desk.keys.issue(_new_account(desk), name="laptop", models=["small-chat"]).id


def _new_model(desk: ops.Desk) -> str:
    return desk.catalog.add_model(**_model()).alias


def _new_route(desk: ops.Desk) -> int:
    return desk.catalog.add_route(_new_model(desk), provider="acme", upstream_model="acme-2").id


def _asked(desk: ops.Desk) -> int:
    """The id of what another operator asked for."""
    with pytest.MonkeyPatch.context() as variable:
        variable.setenv("OPS_APPROVAL_ABOVE", "1000")
        email, me, desk.operator = _new_account(desk), desk.operator, "otto"
        asked = desk.credits.grant(email, credits="5000", reason="a large gift", grant_key=_name("key"))
        desk.operator = me
    assert asked.approval_id is not None
    return asked.approval_id


# ── an example of each ────────────────────────────────────────────────────────────────────────────────────────────


def _create_account(desk: ops.Desk) -> Call:
    email = _name("bob") + "@example.com"
    return lambda: desk.accounts.create(email, password="long enough", name="Bob's own")


def _invite(desk: ops.Desk) -> Call:
    email = _name("bob") + "@example.com"
    return lambda: desk.accounts.invite(email)


def _suspend(desk: ops.Desk) -> Call:
    email = _new_account(desk)
    return lambda: desk.accounts.suspend(email, reason=f"{email} did not pay")


def _resume(desk: ops.Desk) -> Call:
    desk.accounts.suspend(email := _new_account(desk))
    return lambda: desk.accounts.resume(email, reason="paid")


def _erase(desk: ops.Desk) -> Call:
    account = desk.accounts.create(_name("ada") + "@example.com")
    return lambda: desk.accounts.erase(account.email, account_id=account.id, reason="asked for it")


def _reset_link(desk: ops.Desk) -> Call:
    email = _new_account(desk)
    return lambda: desk.accounts.reset_link(email)


def _add_provider(desk: ops.Desk) -> Call:
    provider = _provider()
    return lambda: desk.catalog.add_provider(**provider)


def _set_credential(desk: ops.Desk) -> Call:
    name = desk.catalog.add_provider(**_provider()).name
    return lambda: desk.catalog.set_credential(name, api_key="another")


def _add_model(desk: ops.Desk) -> Call:
    model = _model()
    return lambda: desk.catalog.add_model(**model)


def _introduce(desk: ops.Desk) -> Call:
    model, names = _model(), {"provider": _name("provider"), "upstream_model": "beta-1", "key_from": "HOME"}
    model |= names | {"base_url": "https://api.beta.test/v1", "cost_input_usd": "0.2", "cost_output_usd": "0.8"}
    return lambda: desk.catalog.introduce(**model)


def _publish(desk: ops.Desk) -> Call:
    alias = _new_model(desk)
    return lambda: desk.catalog.publish(alias)


def _unpublish(desk: ops.Desk) -> Call:
    desk.catalog.publish(alias := _new_model(desk))
    return lambda: desk.catalog.unpublish(alias)


def _add_route(desk: ops.Desk) -> Call:
    alias = _new_model(desk)
    return lambda: desk.catalog.add_route(alias, provider="acme", upstream_model="acme-3")


def _set_route(desk: ops.Desk) -> Call:
    route = _new_route(desk)
    return lambda: desk.catalog.set_route(route, weight=7, cost_input_usd="0.1")


def _enable_route(desk: ops.Desk) -> Call:
    desk.catalog.disable_route(route := _new_route(desk))
    return lambda: desk.catalog.enable_route(route)


def _disable_route(desk: ops.Desk) -> Call:
    route = _new_route(desk)
    return lambda: desk.catalog.disable_route(route, reason="drained")


def _drain_route(desk: ops.Desk) -> Call:
    route = _new_route(desk)
    return lambda: desk.catalog.drain_route(route, reason="drained")


def _set_costs(desk: ops.Desk) -> Call:
    alias = _new_model(desk)
    desk.catalog.add_route(alias, provider="acme", upstream_model=alias)
    costs = desk.catalog.cost_basis(alias, listed_as={f"acme/{alias}": "openai/gpt-4o-mini"})
    return lambda: costs.publish(reason="the public list")


def _cancel_price(desk: ops.Desk) -> Call:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    price = desk.catalog.propose_price(_new_model(desk), input_usd="1", output_usd="1", effective_from=tomorrow)
    version = price.publish(reason="a slip").id
    return lambda: desk.catalog.cancel_price(version, reason="it was a slip")


def _import_prices(desk: ops.Desk) -> Call:
    prices = desk.catalog.import_prices(
        pd.DataFrame([{"model": _new_model(desk), "input_usd": "1", "output_usd": "1"}])
    )
    return lambda: prices.publish(reason="autumn list")


def _rerate(desk: ops.Desk) -> Call:
    """What `serve_a_request` served; once in a database's life."""
    cheaper = desk.catalog.propose_price("small-chat", input_usd="0.2", cached_input_usd="0.07", output_usd="1")
    version = cheaper.publish(reason="as promised").id
    until = datetime.now(UTC)
    since = until - timedelta(hours=1)
    preview = desk.rerating.preview("small-chat", price_version=version, since=since, until=until)
    return lambda: preview.post(reason="as promised")


async def serve_a_request(database: Database) -> None:
    """And one whose settlement is in quarantine."""
    shop = await open_shop(database)
    await shop.serve(Meters(fresh=1_000, output=100))
    await records.Quarantine.create(at_us=1, request_id="r-1", error="overdrawn", command="Capture {}")


def _close_quarantined(desk: ops.Desk) -> Call:
    """Once in a database's life."""
    (waiting,) = desk.quarantine.list()["id"]
    return lambda: desk.quarantine.close(int(waiting), reason="the client saw an error")


def _propose(desk: ops.Desk) -> Call:
    proposal = desk.catalog.propose_price(_new_model(desk), input_usd="0.28", output_usd="1.20")
    return lambda: proposal.publish(reason="autumn list")


def _grant(desk: ops.Desk) -> Call:
    email, key = _new_account(desk), _name("key")
    return lambda: desk.credits.grant(email, credits="5", reason=f"gift to {email}", grant_key=key)


def _take_back(desk: ops.Desk) -> Call:
    email, key = _new_account(desk), _name("key")
    return lambda: desk.credits.take_back(email, credits="5", reason="dispute", grant_key=key)


def _approve(desk: ops.Desk) -> Call:
    asked = _asked(desk)
    return lambda: desk.credits.approve(asked, reason="as agreed")


def _refuse(desk: ops.Desk) -> Call:
    asked = _asked(desk)
    return lambda: desk.credits.refuse(asked, reason="too much")


def _grant_file(desk: ops.Desk) -> Call:
    ada, bob = _new_account(desk), _new_account(desk)
    lines = [(ada, "1.5", _name("key")), (bob, "2", _name("key")), (ada, "0.5", _name("key"))]
    preview = desk.credits.grants_from(pd.DataFrame(lines, columns=["email", "credits", "grant_key"]))
    return lambda: preview.grant(reason="spring")


def _make_vouchers(desk: ops.Desk) -> Call:
    name = _name("batch")
    return lambda: desk.vouchers.make(name, credits="5", count=3, reason="spring fair")


def _void(desk: ops.Desk) -> Call:
    name = desk.vouchers.make(_name("batch"), credits="5", count=3, reason="spring fair").name
    return lambda: desk.vouchers.void(name, reason="a leaflet was left behind")


def _void_one(desk: ops.Desk) -> Call:
    name = desk.vouchers.make(_name("batch"), credits="5", count=3, reason="spring fair").name
    voucher = int(desk.vouchers.list(name)["id"][1])
    return lambda: desk.vouchers.void_one(voucher, reason="a leaflet was left behind")


def _issue(desk: ops.Desk) -> Call:
    email = _new_account(desk)
    return lambda: desk.keys.issue(email, name="Bob's own", models=["small-chat"])


def _revoke(desk: ops.Desk) -> Call:
    key = _new_key(desk)
    return lambda: desk.keys.revoke(key, reason="leaked")


def _disable_key(desk: ops.Desk) -> Call:
    key = _new_key(desk)
    return lambda: desk.keys.disable(key)


def _enable_key(desk: ops.Desk) -> Call:
    desk.keys.disable(key := _new_key(desk))
    return lambda: desk.keys.enable(key)


def _regenerate(desk: ops.Desk) -> Call:
    key = _new_key(desk)
    return lambda: desk.keys.regenerate(key)


def _set_models(desk: ops.Desk) -> Call:
    key, alias = _new_key(desk), _new_model(desk)
    return lambda: desk.keys.set_models(key, ["small-chat", alias])


def _set_limit(desk: ops.Desk) -> Call:
    email = _new_account(desk)
    return lambda: desk.limits.set(account=email, unit="requests", quota=60)


EXAMPLES: dict[str, Example] = {
    "Accounts.create": _create_account,
    "Accounts.suspend": _suspend,
    "Accounts.resume": _resume,
    "Accounts.erase": _erase,
    "Accounts.reset_link": _reset_link,
    "Catalog.add_provider": _add_provider,
    "Catalog.set_credential": _set_credential,
    "Catalog.add_model": _add_model,
    "Catalog.introduce": _introduce,
    "Catalog.publish": _publish,
    "Catalog.unpublish": _unpublish,
    "Routes.add_route": _add_route,
    "Routes.set_route": _set_route,
    "Routes.enable_route": _enable_route,
    "Routes.disable_route": _disable_route,
    "Routes.drain_route": _drain_route,
    "CostBasis.publish": _set_costs,
    "Proposal.publish": _propose,
    "PriceList.publish": _import_prices,
    "Prices.cancel_price": _cancel_price,
    "Preview.post": _rerate,
    "Credits.grant": _grant,
    "Credits.take_back": _take_back,
    "Credits.approve": _approve,
    "Credits.refuse": _refuse,
    "GrantsPreview.grant": _grant_file,
    "Vouchers.make": _make_vouchers,
    "Vouchers.void": _void,
    "Vouchers.void_one": _void_one,
    "Accounts.invite": _invite,
    "Keys.issue": _issue,
    "Keys.revoke": _revoke,
    "Keys.disable": _disable_key,
    "Keys.enable": _enable_key,
    "Keys.regenerate": _regenerate,
    "Keys.set_models": _set_models,
    "Limits.set": _set_limit,
    "Quarantined.close": _close_quarantined,
}


# ── which verbs there are ─────────────────────────────────────────────────────────────────────────────────────────


def writing_verbs() -> set[str]:
    """`Class.method` of everything in `ops` that calls `_write`, or a function that does, or another such method of its own."""
    trees = [ast.parse(path.read_text()) for path in _files()]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    writers = {"_write", *(function.name for function in functions if _calls(function, {"_write"}))}
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = [(made.name, each) for made in classes for each in made.body if isinstance(each, ast.FunctionDef)]
    direct = {(made, each.name) for made, each in methods if _calls(each, writers)}
    writing, names = {made for made, _ in direct}, {name for _, name in direct}
    return {
        f"{made}.{each.name}"
        for made, each in methods
        if (made, each.name) in direct or (made in writing and any(_is_own(call) for call in _calls(each, names)))
    }


def passed_to(call: str) -> set[str]:
    """The names of the functions given to `_read` or `_write` anywhere in `ops`."""
    trees = (ast.parse(path.read_text()) for path in _files())
    first = (node.args[0] for tree in trees for node in _calls(tree, {call}) if node.args)
    return {argument.id for argument in first if isinstance(argument, ast.Name)}


def _is_own(call: ast.Call) -> bool:
    return (
        isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "self"
    )


def _calls(tree: ast.AST, names: set[str]) -> list[ast.Call]:
    """Calls of functions and methods of these names."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", None)) in names]


def _files() -> list[Path]:
    return sorted(Path(inspect.getfile(ops)).parent.rglob("*.py"))


# ── what a write leaves ───────────────────────────────────────────────────────────────────────────────────────────


def contents(sql: Sql) -> dict[str, list[str]]:
    """Every row of every table, the audit log apart, as any other connection sees them now."""
    return {table: sorted(map(repr, sql.rows(f'SELECT * FROM "{table}"'))) for table in tables() if table != "audit"}


def tables() -> list[str]:
    """Of every record."""
    kinds = (kind for _, kind in inspect.getmembers(records, inspect.isclass) if issubclass(kind, Model))
    return sorted(kind._meta.db_table for kind in kinds if kind is not Model)


def audit_count(sql: Sql) -> int:
    return int(sql.value("SELECT COUNT(*) FROM audit"))
