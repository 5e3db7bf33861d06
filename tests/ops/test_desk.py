"""Opening a desk: where it finds its database, who signs, and that it works in scripts, loops and threads alike."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ops
from models.database import parse_url
from models.schema import migrate
from tests.models.shop import sqlite_only

SCRIPT = """
import ops
desk = ops.connect()
print(desk.operator, list(desk.accounts.balances()["email"]))
"""


def test_a_script_that_forgets_to_close_ends_by_itself(address: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"GATEWAY_DATABASE_URL={address}\nOPS_OPERATOR=from the file\nGATEWAY_HOST=\n")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "from the file ['ada@example.com']\n"


def test_a_desk_works_inside_a_running_event_loop(address: str) -> None:
    async def cell() -> int:
        with ops.connect(address) as desk:
            return int(desk.accounts.balances()["balance_nano"].sum())

    assert asyncio.run(cell()) == 1_000 * 10**9


@sqlite_only
def test_two_desks_in_one_process_do_not_mix(address: str, tmp_path: Path) -> None:
    other = f"sqlite://{tmp_path}/other.db"
    asyncio.run(migrate(parse_url(other)))
    with ops.connect(address, operator="a") as here, ops.connect(other, operator="b") as there:
        there.accounts.create("bob@example.com")
        assert list(here.accounts.balances()["email"]) == ["ada@example.com"]
        assert list(there.accounts.balances()["email"]) == ["bob@example.com"]


def test_threads_may_share_a_desk(desk: ops.Desk) -> None:
    def give(n: int) -> bool:
        return desk.credits.grant("ada@example.com", credits="1", reason="test", grant_key=f"key-{n % 10}").repeated

    with ThreadPoolExecutor(4) as threads:
        repeated = list(threads.map(give, range(20)))
    assert repeated.count(False) == 10
    assert desk.accounts.balances()["balance_nano"].sum() == 1_010 * 10**9


@sqlite_only
def test_the_operator_is_named_by_argument_variable_or_login(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "login")
    monkeypatch.setenv("OPS_OPERATOR", "")
    with ops.connect(address) as desk:
        assert desk.operator == "login"
    monkeypatch.setenv("OPS_OPERATOR", "variable")
    with ops.connect(address) as desk:
        assert desk.operator == "variable"
    with ops.connect(address, operator="argument") as desk:
        assert desk.operator == "argument"


def test_a_missing_or_unmigrated_database_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ops.SetupError, match="gateway migrate"):
        ops.connect(f"sqlite://{tmp_path}/missing.db")
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(ops.SetupError, match="gateway migrate"):
        ops.connect(f"sqlite://{tmp_path}/empty.db")
    with pytest.raises(ops.SetupError, match="GATEWAY_DATABASE_URL"):
        ops.connect("mysql://host/db")
    with pytest.raises(ops.SetupError, match="cannot read the database"):
        ops.connect("postgres://nobody:pw@127.0.0.1:1/none")


def test_a_closed_desk_says_so(desk: ops.Desk) -> None:
    desk.close()
    desk.close()
    with pytest.raises(ops.SetupError, match=r"ops\.connect"):
        desk.accounts.balances()


@sqlite_only
def test_one_process_keeps_to_one_kind_of_database(desk: ops.Desk) -> None:
    with pytest.raises(ops.SetupError, match="close the desk"):
        ops.connect("postgres://nobody@127.0.0.1:1/none")


@sqlite_only
def test_a_database_that_somebody_else_locks_is_said_to_be_busy(address: str) -> None:
    holder = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, address.removeprefix("sqlite://")]
    with (
        ops.connect(address) as desk,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ops.LedgerUnavailable, match="busy"):
            desk.accounts.create("bob@example.com")
        process.communicate("")
        assert desk.accounts.create("bob@example.com").email == "bob@example.com"


def test_reconcile_shows_every_invariant(desk: ops.Desk) -> None:
    frame = desk.reconcile()
    assert list(frame.columns) == ["number", "invariant", "ok", "detail"]
    assert list(frame["number"]) == list(range(1, 14))
    assert frame["ok"].all()
