"""The command line as people and supervisors meet it: real processes, their output and their exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from asyncpg import InvalidPasswordError

import ops
from gateway.settings import Settings, variable_of
from models.database import parse_url, why_unusable
from models.ids import new_request_id
from models.months import Month
from tests.rig import ROOT, Process

COMMANDS = (
    "demo", "serve", "migrate", "reconcile", "backup", "restore", "drop-usage", "quarantine", "operator-role",
    "simulate-provider",
)  # fmt: skip
POSTGRES = "postgres://user:pass-word@127.0.0.1:1/gateway"


def environment(**given: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
    return {**inherited, "PYTHONPATH": str(ROOT), **given}


def gateway(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that refused; nothing else was printed."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("gateway: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def _migrated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    assert gateway(folder, "migrate").returncode == 0
    return folder


@pytest.fixture
def migrated(_migrated_once: Path, tmp_path: Path) -> Path:
    """What `gateway migrate` has made in a folder."""
    return shutil.copytree(_migrated_once, tmp_path, dirs_exist_ok=True)


# ── help ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_lists_every_command_and_loads_neither_server_nor_data_frames(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gateway", "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert all(command in done.stdout for command in COMMANDS)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"sanic", "pandas", "tortoise", "aiohttp"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = gateway(tmp_path, command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: gateway {command}")
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_serve_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    shown = " ".join(gateway(tmp_path, "serve", "--help", COLUMNS="120").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"{variable_of(name)} " in shown
        assert str(field.description).split(maxsplit=1)[0] in shown
    assert "port to listen on (8000)" in shown
    assert "closed, invite, open (closed)" in shown


@pytest.mark.parametrize("columns", [72, 80, 120])
def test_the_help_of_serve_breaks_no_line_within_a_word(tmp_path: Path, columns: int) -> None:
    shown = words(gateway(tmp_path, "serve", "--help", COLUMNS=str(columns)).stdout)
    for field in Settings.model_fields.values():
        assert words(str(field.description)) - {"e-mail"} <= shown


def words(text: str) -> set[str]:
    return {word.rstrip(",") for word in text.split()}


def test_the_help_of_simulate_provider_lists_what_a_model_name_can_ask_for(tmp_path: Path) -> None:
    shown = gateway(tmp_path, "simulate-provider", "--help").stdout
    assert all(option in shown for option in ("words=N", "cut=N", "stall=N", "usage=", "gap_ms=N"))


# ── mistakes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bad_setting_is_one_line_that_names_the_variable(tmp_path: Path) -> None:
    """What is said of each is in test_settings.py."""
    for variable, value in (("GATEWAY_PORT", "http"), ("GATEWAY_DATABASE_URL", "mysql://user:pass@host/db")):
        assert variable in refusal(gateway(tmp_path, "serve", **{variable: value}))


def test_the_env_file_is_read_and_an_empty_variable_is_unset(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_PORT=99999\n")
    assert "GATEWAY_PORT" in refusal(gateway(tmp_path, "serve", GATEWAY_PORT=""))


def test_a_name_that_is_no_setting_is_warned_of_once_and_the_server_starts(migrated: Path) -> None:
    (migrated / ".env").write_text("GATEWAY_HOTS=canary.example\nGATEWAY_BRAND=Acme\nGATEWAY_VERSION=1.2\n")
    given = {
        "GATEWAY_SINGUP": "canary",
        "GATEWAY_OF_THE_NEXT_VERSION": "canary",
        "GATEWAY_EMPTY": "",
        "gateway_signup": "invite",
        # What Kubernetes sets for a service called gateway.
        "GATEWAY_SERVICE_HOST": "10.0.0.7",
        "GATEWAY_SERVICE_PORT": "8000",
        "GATEWAY_SERVICE_PORT_HTTP": "8000",
        "GATEWAY_PORT": "tcp://10.0.0.7:8000",
        "GATEWAY_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "GATEWAY_PORT_8000_TCP_PROTO": "tcp",
        "GATEWAY_PORT_8000_TCP_PORT": "8000",
        "GATEWAY_PORT_8000_TCP_ADDR": "10.0.0.7",
    }
    server = Process(["serve", "--port", "0"], {**given, "GATEWAY_LOG_FORMAT": "json"}, migrated / "gateway.log")
    assert server.stop() == 0
    told = server.log.read_text()
    warnings = [line for line in map(json.loads, told.splitlines()) if line["level"] == "warning"]
    assert {(line["variable"], line.get("meant")) for line in warnings} == {
        ("GATEWAY_HOTS", "GATEWAY_HOST"),
        ("GATEWAY_OF_THE_NEXT_VERSION", None),
        ("GATEWAY_SINGUP", "GATEWAY_SIGNUP"),
    }
    assert len(warnings) == 3
    assert "canary" not in told


def test_it_is_warned_of_when_the_server_cannot_start_and_by_the_demo(tmp_path: Path) -> None:
    done = gateway(tmp_path, "serve", GATEWAY_DATABSE_URL="postgres://user:canary@host/name")
    assert done.returncode == 2
    assert "meant=GATEWAY_DATABASE_URL variable=GATEWAY_DATABSE_URL" in done.stderr
    assert "canary" not in done.stderr
    demo = Process(["demo", "--port", "0"], {"GATEWAY_SINGUP": "open"}, tmp_path / "demo.log")
    assert demo.stop() == 0
    assert "meant=GATEWAY_SIGNUP variable=GATEWAY_SINGUP" in demo.log.read_text()


def test_a_port_that_kubernetes_has_set_is_told_as_that(tmp_path: Path) -> None:
    told = refusal(gateway(tmp_path, "serve", GATEWAY_PORT="tcp://10.0.0.7:8000"))
    assert "GATEWAY_PORT: 'tcp://10.0.0.7:8000' is what Kubernetes sets it to" in told
    assert "enableServiceLinks: false, or set it, or --port" in told


def test_a_bad_secret_key_and_a_database_password_are_not_repeated(tmp_path: Path) -> None:
    told = refusal(gateway(tmp_path, "serve", GATEWAY_SECRET_KEY="tooshort"))
    assert told == (
        "gateway: GATEWAY_SECRET_KEY: must have at least 16 characters; make one with: openssl rand -hex 32\n"
    )
    told = refusal(gateway(tmp_path, "migrate", GATEWAY_DATABASE_URL=POSTGRES))
    assert "GATEWAY_DATABASE_URL" in told
    assert "pass-word" not in told


def test_a_postgres_that_does_not_answer_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as silent:
        # Bound, but nobody listens: a connection is refused.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        for command, host in (("serve", "127.0.0.1"), ("migrate", "127.0.0.1"), ("serve", "nowhere.invalid")):
            url = f"postgres://user:pass-word@{host}:{port}/gateway"
            told = refusal(gateway(tmp_path, command, GATEWAY_DATABASE_URL=url))
            assert f"postgres://user:…@{host}:{port}/gateway: no PostgreSQL answers there" in told
            assert told.endswith("; start it, or correct host and port\n")


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError("reset"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        # As asyncio puts it for a name with several addresses.
        OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect call failed"),
    ],
)
def test_one_that_is_silent_is_not_left_without_a_remedy(error: OSError) -> None:
    told = why_unusable(parse_url(POSTGRES), error)
    assert "no PostgreSQL answers there (" in told
    assert "()" not in told


def test_what_an_answering_database_refuses_is_in_its_own_words() -> None:
    for error in (InvalidPasswordError("password authentication failed"), PermissionError(errno.EACCES, "denied")):
        assert why_unusable(parse_url(POSTGRES), error) == str(error)
    assert why_unusable(parse_url("sqlite://gateway.db"), TimeoutError("locked")) == "locked"


def test_a_missing_or_unmigrated_database_names_the_command_that_helps(tmp_path: Path) -> None:
    for command in ("serve", "reconcile"):
        assert "gateway migrate" in refusal(gateway(tmp_path, command))
    (tmp_path / "empty.db").touch()
    for command in ("serve", "reconcile"):
        told = refusal(gateway(tmp_path, command, GATEWAY_DATABASE_URL="sqlite://empty.db"))
        assert "needs" in told
        assert "run: gateway migrate" in told


def test_more_than_one_worker_needs_postgres_and_redis(tmp_path: Path) -> None:
    assert "PostgreSQL" in refusal(gateway(tmp_path, "serve", "--workers", "2"))
    told = refusal(gateway(tmp_path, "serve", "--workers", "2", GATEWAY_DATABASE_URL=POSTGRES))
    assert "GATEWAY_REDIS_URL" in told


def test_the_demo_does_not_touch_a_postgres_database(tmp_path: Path) -> None:
    assert "GATEWAY_DATABASE_URL" in refusal(gateway(tmp_path, "demo", GATEWAY_DATABASE_URL=POSTGRES))


def test_a_second_server_on_the_same_database_and_a_taken_port_are_refused(migrated: Path) -> None:
    first = Process(["serve", "--port", "0"], {}, migrated / "first.log")
    try:
        assert "another server" in refusal(gateway(migrated, "serve", "--port", "0"))
        assert "another server" in refusal(gateway(migrated, "demo", "--port", "0"))
        with urllib.request.urlopen(f"{first.url}/readyz", timeout=10) as answer:
            assert answer.status == 200
    finally:
        assert first.stop() == 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        told = refusal(gateway(migrated, "serve", "--port", port))
        assert f"port {port}" in told
        assert "in use" in told


# ── migrate ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_migrating_twice_changes_nothing(migrated: Path) -> None:
    secret = migrated / "var" / "gateway.db.secret"
    before = secret.read_text()
    again = gateway(migrated, "migrate")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert secret.read_text() == before
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_new_database_is_private_whatever_the_umask_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert gateway(tmp_path, "migrate").returncode == 0
        assert gateway(tmp_path, "demo", "--prepare", GATEWAY_DATABASE_URL="sqlite://demo/gateway.db").returncode == 0
    finally:
        os.umask(before)
    file = tmp_path / "var" / "gateway.db"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE account SET held_nano = held_nano")
        assert modes(tmp_path / "var") == modes(tmp_path / "demo") == {0o600}
    file.chmod(0o640)
    assert gateway(tmp_path, "migrate").returncode == 0
    assert gateway(tmp_path, "backup", "copy.db").returncode == 0
    assert gateway(tmp_path, "restore", "copy.db").returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert gateway(tmp_path, "restore", "copy.db", GATEWAY_DATABASE_URL="sqlite://new/gateway.db").returncode == 0
    assert modes(tmp_path / "new") == {0o600}


def modes(folder: Path) -> set[int]:
    """Of all files in a folder."""
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_migrating_at_once_succeeds_everywhere_and_makes_one_secret(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "migrate"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert sum("nothing to do" in line for line in told) == 2
    assert gateway(tmp_path, "reconcile").returncode == 0
    assert {path.name for path in (tmp_path / "var").glob("*.secret*")} == {"gateway.db.secret"}


# ── reconcile ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reconcile_of_a_fresh_database_holds(migrated: Path) -> None:
    done = gateway(migrated, "reconcile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert all(" holds " in line for line in done.stdout.splitlines())
    document = json.loads(gateway(migrated, "reconcile", "--json").stdout)
    assert document["ok"] is True
    assert len(document["invariants"]) == len(done.stdout.splitlines())
    assert all(finding["ok"] and finding["name"] and finding["number"] for finding in document["invariants"])


def test_reconcile_fails_when_a_balance_was_altered_behind_its_back(migrated: Path) -> None:
    file = migrated / "var" / "gateway.db"
    desk = ops.connect(f"sqlite://{file}", operator="tests")
    desk.accounts.create("ada@example.com", password="a long enough password")
    desk.credits.grant("ada@example.com", credits="10", reason="welcome", grant_key="welcome-ada")
    desk.close()
    assert gateway(migrated, "reconcile").returncode == 0
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE account SET balance_nano = balance_nano + 1 WHERE id > 1000")
    done = gateway(migrated, "reconcile")
    assert done.returncode == 1
    assert " FAILS " in done.stdout
    document = gateway(migrated, "reconcile", "--json")
    assert document.returncode == 1
    assert json.loads(document.stdout)["ok"] is False


# ── drop-usage ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def with_old_usage(migrated: Path) -> Path:
    """Two usage records of January and one of February 2026, of requests that failed and so moved no money."""
    with sqlite3.connect(migrated / "var" / "gateway.db") as connection:
        for n, month in enumerate((1, 1, 2)):
            at_us = Month(2026, month).start_us + n
            values = (new_request_id(at_us), at_us, *[1] * 5, "failed", *[0] * 9, "[]", 0, 0)
            connection.execute(f"INSERT INTO usage VALUES ({', '.join('?' * len(values))})", values)
    return migrated


def kept(folder: Path) -> int:
    with sqlite3.connect(folder / "var" / "gateway.db") as connection:
        return int(connection.execute("SELECT COUNT(*) FROM usage").fetchone()[0])


def test_dropping_usage_shows_first_and_then_does_it(with_old_usage: Path) -> None:
    shown = gateway(with_old_usage, "drop-usage", "--before", "2026-02")
    assert shown.returncode == 0, shown.stderr
    assert "would drop 2026-01: 2 records" in shown.stdout
    assert "nothing was changed" in shown.stdout
    assert kept(with_old_usage) == 3
    done = gateway(with_old_usage, "drop-usage", "--before", "2026-02", "--yes", OPS_OPERATOR="olga")
    assert done.returncode == 0, done.stderr
    assert "dropped 2 usage records from before 2026-02-01 00:00 UTC" in done.stdout
    assert kept(with_old_usage) == 1
    with sqlite3.connect(with_old_usage / "var" / "gateway.db") as connection:
        assert connection.execute("SELECT operator, action, reason FROM audit").fetchall() == [
            ("olga", "usage.drop", "retention")
        ]
    again = gateway(with_old_usage, "drop-usage", "--before", "2026-02", "--yes")
    assert again.returncode == 0
    assert "nothing to drop" in again.stdout


def test_days_are_summed_again_and_said_so(with_old_usage: Path) -> None:
    """As after a slow clock: those days count as rolled up, and have no sums."""
    with sqlite3.connect(with_old_usage / "var" / "gateway.db") as connection:
        connection.execute("UPDATE usage_rollup SET until_us = ?", [Month(2026, 2).start_us])
    thirteenth = "days that are rolled up are the sums of their records"
    before = gateway(with_old_usage, "reconcile")
    assert f"FAILS  {thirteenth}" in before.stdout
    after = gateway(with_old_usage, "reconcile", "--sum-days", OPS_OPERATOR="olga")
    assert f"holds  {thirteenth}" in after.stdout
    assert "summed again: 2026-01" in after.stderr
    with sqlite3.connect(with_old_usage / "var" / "gateway.db") as connection:
        assert connection.execute("SELECT SUM(requests) FROM usage_day").fetchone() == (2,)
        assert set(connection.execute("SELECT operator, action FROM audit")) == {("olga", "usage.sum_again")}
    assert "summed again" not in gateway(with_old_usage, "reconcile", "--sum-days").stderr


def test_a_bad_or_future_month_is_one_line(with_old_usage: Path) -> None:
    for month in ("2026-13", "january", "9999-01", ""):
        assert "before" in refusal(gateway(with_old_usage, "drop-usage", "--before", month, "--yes"))
    assert kept(with_old_usage) == 3
