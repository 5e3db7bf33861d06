"""`docker/README.md` is true: its commands run, but for Docker's own part; what they name is in the compose file."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.test_compose import SECRETS, services
from tests.rig import ROOT
from tests.servers import execute_now, fresh_postgres, postgres_client
from tests.stores import Sql

TEXT = (ROOT / "docker" / "README.md").read_text()
DOCKER = "docker compose -f docker/compose.yaml "
VERBS = {"up", "ps", "run", "exec", "build", "stop"}


def blocks(heading: str = "") -> list[str]:
    part = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0] if heading else TEXT
    return re.findall(r"```bash\n(.*?)```", part, re.DOTALL)


def docker_lines(heading: str = "") -> list[str]:
    lines = [line for block in blocks(heading) for line in block.splitlines()]
    return [line.removeprefix(DOCKER) for line in lines if line.startswith("docker")]


def test_its_commands_name_services_that_are_there() -> None:
    lines = docker_lines()
    assert len(lines) > 15
    for line in lines:
        verb, *words = line.partition(" > ")[0].partition(" < ")[0].split()
        assert verb in VERBS, line
        named = [word for word in words if not word.startswith("-")]
        if verb in ("run", "exec"):
            named = named[:1]
            assert named, line
        assert set(named) <= set(services()), line


def test_the_files_are_filled_in_as_it_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns(".env", "tls"))
    for block in blocks("Start"):
        if not block.startswith("docker"):
            subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True, capture_output=True)
    made = tmp_path / "docker" / ".env"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", made.read_text(), re.MULTILINE))
    assert all(re.fullmatch(r"[0-9a-f]{64}", values[name]) for name in SECRETS)
    assert len({values[name] for name in SECRETS}) == len(SECRETS)
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-in", tmp_path / "docker/tls/fullchain.pem"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "api.example.com" in shown
    assert (tmp_path / "docker/tls/privkey.pem").exists()


def test_the_tests_that_it_names_are_there() -> None:
    table = TEXT.split("## What was run, and what was not")[1]
    names = re.findall(r"`((?:tests/)?[\w/]+\.py)`", table)
    assert len(names) > 5
    for name in names:
        assert (ROOT / name).exists() or (Path(__file__).parent / name).exists(), name


@pytest.fixture
def url() -> Iterator[str]:
    with fresh_postgres() as made:
        yield made


@pytest.fixture
def inside(url: str) -> dict[str, str]:
    """The environment in which PostgreSQL's own programs find that database, as they do in its container."""
    server, name = url.rsplit("/", 1)
    who, _, host = server.removeprefix("postgres://").rpartition("@")
    user, _, password = who.partition(":")
    address, _, port = host.partition(":")
    return {
        "PATH": f"{postgres_client()}:{os.environ['PATH']}", "PGHOST": address, "PGPORT": port or "5432",
        "PGPASSWORD": password, "POSTGRES_USER": user, "POSTGRES_DB": name,
    }  # fmt: skip


def test_a_dump_is_restored_by_the_lines_that_run_inside_postgres(
    url: str, inside: dict[str, str], tmp_path: Path
) -> None:
    def run_inside(heading: str) -> None:
        lines = [line for line in docker_lines(heading) if line.startswith("exec -T postgres ")]
        assert lines
        for line in lines:
            command = line.removeprefix("exec -T postgres ")
            command = command.replace("--username=gateway", f"--username={inside['POSTGRES_USER']}")
            command = re.sub(r"(?<=[ =])gateway(?= |$)", inside["POSTGRES_DB"], command)
            subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=inside, check=True)

    execute_now(url, "CREATE TABLE book (page INT); INSERT INTO book VALUES (1), (2)")
    run_inside("Back-up")
    execute_now(url, "DROP TABLE book")
    run_inside("Restore")
    with Sql(url) as database:
        assert database.rows("SELECT page FROM book ORDER BY page") == [(1,), (2,)]


def test_the_role_of_notebooks_is_made_when_the_volume_is(url: str, inside: dict[str, str], tmp_path: Path) -> None:
    role = f"{inside['POSTGRES_DB']}_operators"
    script = (ROOT / "docker" / "postgres" / "operators.sh").read_text()
    assert "CREATE ROLE operators " in script
    (tmp_path / "operators.sh").write_text(script.replace("CREATE ROLE operators ", f"CREATE ROLE {role} "))
    given = {**inside, "OPS_DATABASE_PASSWORD": "0123456789abcdef'; --"}
    try:
        subprocess.run(["sh", tmp_path / "operators.sh"], env=given, check=True, capture_output=True)
        with Sql(url) as database:
            made = database.rows(
                "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = ?", role
            )
        assert made == [(True, False, False, False)]
    finally:
        execute_now(url, f'DROP ROLE IF EXISTS "{role}"')
