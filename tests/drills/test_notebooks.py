"""Every notebook, as a schedule runs it, on a SQLite database with a million usage records: a minute at most for all of it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import ops
from tests.drills.conftest import RECORDS_ON_SQLITE
from tests.notebooks.sandbox import environment
from tests.notebooks.tidy import notebooks
from tests.rig import ROOT, close_desks

pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(900)]
WITHIN_S = 60


@pytest.fixture(scope="module")
def told(filled_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables by which a notebook finds a copy of the database: its run is written to the audit log."""
    path = tmp_path_factory.mktemp("notebooks") / "gateway.db"
    shutil.copy(filled_sqlite, path)
    close_desks()
    return {
        "GATEWAY_DATABASE_URL": f"sqlite://{path}",
        "GATEWAY_SECRET_KEY": "secret",
        "OPS_OPERATOR": "olga",
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_it_takes_a_minute_at_most(path: Path, told: dict[str, str], tmp_path: Path) -> None:
    with environment(told):
        started = time.monotonic()
        run = ops.run_notebook(path, folder=tmp_path)
        took_s = time.monotonic() - started
        with ops.connect() as desk:
            assert desk.usage.by()["requests"].sum() >= RECORDS_ON_SQLITE
        close_desks()
    print(f"{path.stem}: {took_s:.1f} s")  # noqa: T201
    assert run.ok, run.error
    assert took_s < WITHIN_S
