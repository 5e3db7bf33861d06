"""A notebook that runs by itself leaves its executed copy and, in the audit log, the copy's hash; also when it fails."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import ops
from tests.models.shop import sqlite_only
from tests.rig import ROOT

pytestmark = sqlite_only


@pytest.fixture
def notebook(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It shows the balance by `times`; a `times` of 0 is an error."""
    monkeypatch.setenv("GATEWAY_DATABASE_URL", address)
    monkeypatch.setenv("OPS_OPERATOR", "night-shift")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [
        nbformat.v4.new_code_cell("times = 1\nmonth = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import ops\n\nbalance = ops.connect().accounts.balances()"),
        nbformat.v4.new_code_cell('print(int(balance.loc[0, "balance_nano"]) // times, month)'),
    ]
    path = tmp_path / "09_balance.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_a_run_leaves_its_copy_and_the_audit_log_has_the_hash(notebook: Path, desk: ops.Desk, tmp_path: Path) -> None:
    run = ops.run_notebook(notebook, {"month": "2026-09"}, reason="the month is over", folder=tmp_path / "runs")
    assert run.ok, run.error
    assert "1000000000000 2026-09" in run.copy.read_text()
    assert run.sha256 == hashlib.sha256(run.copy.read_bytes()).hexdigest()
    (row,) = desk.audit.rows(action="notebook").to_dict("records")
    assert (row["operator"], row["subject"]) == ("night-shift", "notebook 09_balance")
    assert row["reason"] == "the month is over"
    assert json.loads(row["after"]) == {
        "parameters": {"month": "2026-09"},
        "ok": True,
        "copy": run.copy.name,
        "sha256": run.sha256,
    }
    assert desk.audit.verify().ok


def test_a_run_that_fails_leaves_both_and_the_command_says_so(notebook: Path, desk: ops.Desk, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.run", str(notebook), "-p", "times", "0", "--folder", str(tmp_path / "runs")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAILED (ZeroDivisionError" in done.stdout
    (copy,) = (tmp_path / "runs").iterdir()
    assert "ZeroDivisionError" in copy.read_text()
    (row,) = desk.audit.rows(action="notebook").to_dict("records")
    told = json.loads(row["after"])
    assert (told["ok"], told["parameters"]) == (False, {"times": 0})
    assert told["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"moth": "2026-09"}, "moth.*times, month"), ({"month": 0.1}, "month"), ({"api_key": "x"}, "api_key")],
)
def test_a_wrong_parameter_runs_nothing(
    notebook: Path, desk: ops.Desk, parameters: dict[str, object], said: str
) -> None:
    with pytest.raises(ops.BadInput, match=said):
        ops.run_notebook(notebook, parameters, folder=notebook.parent / "runs")
    assert not (notebook.parent / "runs").exists()
    assert desk.audit.rows(action="notebook").empty


def test_a_file_that_is_no_notebook_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(ops.BadInput, match=r"no notebook .*missing\.ipynb"):
        ops.run_notebook(tmp_path / "missing.ipynb")
