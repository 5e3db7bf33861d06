"""Named environments: the desk stands where its name says, and a protected one is written to only after its name is typed."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ops
from models.credits import Granted
from models.database import open_database, parse_url
from models.schema import migrate
from tests.models.shop import sqlite_only
from tests.ops.writes import EXAMPLES, contents, serve_a_request
from tests.rig import ROOT
from tests.stores import Sql

ADA = "ada@example.com"


@pytest.fixture
def production(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`ops.toml` with two environments; the address of the protected one stands in a variable."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("PRODUCTION_DATABASE_URL", address)
    write(
        tmp_path,
        f"""
        [demo]
        database_url = "sqlite://{tmp_path}/demo.db"

        [production]
        database_url_from = "PRODUCTION_DATABASE_URL"
        operator = "from the file"
        approval_above = "500"
        protected = true
        """,
    )
    return address


@pytest.fixture
def locked(production: str) -> Iterator[ops.Desk]:
    with ops.connect(environment="production") as opened:
        yield opened


def write(folder: Path, text: str) -> None:
    (folder / "ops.toml").write_text("\n".join(line.strip() for line in text.splitlines()))


def grant(desk: ops.Desk, credits: str = "5") -> Granted:
    return desk.credits.grant(ADA, credits=credits, reason="gift", grant_key=f"gift-{credits}")


def test_on_a_protected_environment_nothing_is_written_before_its_name_was_typed_out(locked: ops.Desk) -> None:
    for _ in range(2):
        with pytest.raises(ops.NeedsConfirmation, match=r'nothing was changed.*desk\.unlock\("production"\)'):
            grant(locked)
    assert locked.accounts.balances()["balance_nano"].sum() == 1_000 * 10**9
    for wrong in ("demo", "Production", "", "production "):
        with pytest.raises(ops.BadInput, match="nothing was unlocked"):
            locked.unlock(wrong)
        with pytest.raises(ops.NeedsConfirmation):
            grant(locked)
    locked.unlock("production")
    assert grant(locked).balance_nano == 1_005 * 10**9
    assert list(locked.audit.rows(limit=1)["operator"]) == ["from the file"]


@sqlite_only
def test_no_verb_at_all_writes_while_it_is_locked(production: str) -> None:
    async def serve() -> None:
        async with open_database(parse_url(production), pool=1) as database:
            await serve_a_request(database)

    asyncio.run(serve())
    with ops.connect(environment="production", operator="olga") as desk, Sql(production) as sql:
        for verb, example in EXAMPLES.items():
            desk.unlock("production")
            call = example(desk)
            desk._guard.locked = True
            before = contents(sql)
            with pytest.raises(ops.NeedsConfirmation):
                call()
            assert contents(sql) == before, verb


def test_its_database_is_protected_by_whatever_way_one_comes_to_it(
    production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", production)
    other = production.replace("127.0.0.1", "localhost").replace("sqlite:///", "sqlite:////")
    for desk in (ops.connect(), ops.connect(production), ops.connect(other)):
        with desk, pytest.raises(ops.NeedsConfirmation):
            grant(desk)
    monkeypatch.delenv("GATEWAY_DATABASE_URL")
    monkeypatch.setenv("OPS_ENVIRONMENT", "production")
    with ops.connect() as desk, pytest.raises(ops.NeedsConfirmation):
        grant(desk)


def test_its_bound_holds_and_the_lower_one_counts(locked: ops.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    locked.unlock("production")
    assert grant(locked, "500").approval_id is None
    assert grant(locked, "501").approval_id is not None
    monkeypatch.setenv("OPS_APPROVAL_ABOVE", "5")
    assert grant(locked, "6").approval_id is not None
    monkeypatch.setenv("OPS_APPROVAL_ABOVE", "5000")
    assert grant(locked, "502").approval_id is not None


def test_a_desk_says_in_large_letters_where_it_stands(locked: ops.Desk, production: str) -> None:
    for shown in (repr(locked), locked._repr_html_()):
        assert "PRODUCTION" in shown
        assert "protected" in shown
        assert "from the file" in shown
        assert "above 500 credits" in shown
    locked.unlock("production")
    assert "protected" not in repr(locked)
    assert "PRODUCTION" in repr(locked)


@sqlite_only
def test_others_need_no_unlocking_and_stand_on_their_own_database(production: str, tmp_path: Path) -> None:
    asyncio.run(migrate(parse_url(f"sqlite://{tmp_path}/demo.db")))
    with ops.connect(environment="demo", operator="olga") as desk:
        desk.accounts.create("bob@example.com")
        assert "DEMO" in repr(desk)
        assert desk.operator == "olga"
    with ops.connect(f"sqlite://{tmp_path}/demo.db", operator="olga") as desk:
        assert list(desk.accounts.balances()["email"]) == ["bob@example.com"]
    table = ops.environments().set_index("environment")
    assert list(table.index) == ["demo", "production"]
    assert list(table["protected"]) == [False, True]


@sqlite_only
def test_who_signs_is_the_argument_then_the_variable_then_the_file(
    production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_OPERATOR", "variable")
    with ops.connect(environment="production") as desk:
        assert desk.operator == "variable"
    with ops.connect(environment="production", operator="argument") as desk:
        assert desk.operator == "argument"


@sqlite_only
def test_credentials_are_sealed_under_the_environments_own_key(
    production: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another's key they could not be read where they are needed."""
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "the demo's key")
    monkeypatch.setenv("PRODUCTION_KEY", "secret")
    file = tmp_path / "ops.toml"
    with ops.connect(environment="production") as desk:
        desk.unlock("production")
        with pytest.raises(ops.SetupError, match="GATEWAY_SECRET_KEY"):
            desk.catalog.add_provider("beta", base_url="https://api.beta.test/v1", api_key="k")
    file.write_text(file.read_text() + '\nsecret_key_from = "PRODUCTION_KEY"\n')
    with ops.connect(environment="production") as desk:
        desk.unlock("production")
        desk.catalog.add_provider("beta", base_url="https://api.beta.test/v1", api_key="k")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[production", "is not TOML"),
        ("protected = true", "protected: stands in no environment"),
        ('[production]\ndatabase_url = "sqlite://a.db"\nprotectd = true', "production.protectd: is no field"),
        ("[production]\nprotected = true", "production.database_url: is missing"),
        ('[production]\ndatabase_url = "sqlite://a"\ndatabase_url_from = "A"', "production.database_url: give one"),
        ("[production]\ndatabase_url = 5", "production.database_url: must be a text"),
        ('[production]\ndatabase_url = "mysql://x/y"', "production.database_url: 'mysql://x/y' is neither"),
        ('[production]\ndatabase_url = "sqlite://a.db"\nprotected = "yes"', "production.protected: must be true or"),
        ('[production]\ndatabase_url = "sqlite://a.db"\napproval_above = 0.5', "production.approval_above: "),
        ('[production]\ndatabase_url = "sqlite://a.db"\napproval_above = "many"', "production.approval_above: "),
        ('[production]\ndatabase_url = "sqlite://a.db"\napproval_above = -1', "production.approval_above: "),
        ('[production]\ndatabase_url_from = "NOT_SET"', "the variable NOT_SET is not set"),
        ('[staging]\ndatabase_url = "sqlite://a.db"', "there is no 'production'; the file knows staging"),
        ("", "there is no 'production'"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "ops.toml").write_text(text)
    with pytest.raises(ops.SetupError) as refusal:
        ops.connect(environment="production")
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


@sqlite_only
def test_a_name_and_a_url_at_once_are_refused(production: str) -> None:
    with pytest.raises(ops.SetupError, match="not both"):
        ops.connect(production, environment="production")
    with ops.connect(f"{production}") as desk:
        assert desk.environment == "production"


TYPED = """
import ops
desk = ops.connect(environment="production")
print(desk.credits.grant("ada@example.com", credits="5", reason="gift", grant_key="gift").balance_nano)
print(desk.credits.grant("ada@example.com", credits="5", reason="gift", grant_key="more").balance_nano)
"""


@sqlite_only
@pytest.mark.parametrize(("typed", "expected"), [("production", "1010000000000"), ("demo", "nothing was changed")])
def test_at_a_terminal_the_name_is_asked_for_once(production: str, typed: str, expected: str) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "w", closefd=True) as keyboard:
        process = subprocess.Popen(
            [sys.executable, "-c", TYPED],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(theirs)
        keyboard.write(typed + "\n")
        keyboard.flush()
        said, _ = process.communicate(timeout=60)
    assert said.count("Type its name to go on") == 1
    assert expected in said
