"""The notebooks' own tests would notice: a price rule that was changed, an output that should not be there, a secret.

That they run and show what they showed before is nbval's to test; see `plugin.py`.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import ops
from tests.notebooks.sandbox import NOTEBOOKS, environment, sample_copy
from tests.notebooks.tidy import faults, notebooks, tidied
from tests.rig import ROOT, close_desks

FIRST_PRICES = NOTEBOOKS / "01_catalog_and_prices.ipynb"
# Every Python process reads it at its start, kernels too.
_ALTERED = """
import models.prices

models.prices.rates_for = lambda tiers, input_tokens: tiers[0].rates
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "sample"


def validated(notebook: Path, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """The notebook under nbval, in a process of its own."""
    told = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in (*paths, ROOT))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}", str(notebook)]
    return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=False)


@pytest.mark.drill
def test_a_notebook_fails_when_the_tiers_of_prices_are_forgotten(tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    altered.mkdir()
    (altered / "sitecustomize.py").write_text(_ALTERED)
    done = validated(FIRST_PRICES, tmp_path / "run", altered)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Cell outputs differ" in done.stdout
    assert "mismatch" in done.stdout


def test_what_is_committed_is_what_may_be() -> None:
    assert [f"{path.name}: {fault}" for path in notebooks() for fault in faults(nbformat.read(path, 4))] == []


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("print(1)", "1", "has outputs"),
        ("# NBVAL_CHECK_OUTPUT\nkey", "sk-st-0123456789abcdef", "a key"),
        ('connect("postgres://olga:hunter22@db/x")', None, "a password in an address"),
        ('password = "correct-horse"', None, "a password"),
        ("# NBVAL_CHECK_OUTPUT\npath", "/home/olga/gateway.db", "an absolute path"),
        ("# NBVAL_CHECK_OUTPUT\npath", None, "has no output"),
    ],
)
def test_what_must_not_be_committed_is_named(source: str, output: str | None, said: str) -> None:
    cell = nbformat.v4.new_code_cell(source)
    if output is not None:
        cell.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": output}, execution_count=7)]
        cell.execution_count = 7
    parameters = nbformat.v4.new_code_cell("days = 1", metadata={"tags": ["parameters"]})
    dirty: Any = nbformat.v4.new_notebook(cells=[parameters, cell])
    found = faults(dirty if said == "has outputs" else tidied(dirty))
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize("source", ["a, b = 1, 2", "since = today()", "days = 1; print(days)", "days = dict(a=1)"])
def test_what_a_schedule_could_not_set_is_named(source: str) -> None:
    cell = nbformat.v4.new_code_cell(f"days = 1\n{source}", metadata={"tags": ["parameters"]})
    (found,) = faults(tidied(nbformat.v4.new_notebook(cells=[cell])))
    assert found == "cell 0: parameters are lines of a name and a plain value each, so that a schedule can set them"


def test_a_run_of_somebody_else_is_stripped_and_nothing_more() -> None:
    committed = nbformat.read(FIRST_PRICES, 4)
    ran = copy.deepcopy(committed)
    ran.metadata["language_info"] = {"name": "python", "version": "3.12.1"}
    for number, cell in enumerate(cell for cell in ran.cells if cell.cell_type == "code"):
        cell.outputs = cell.outputs or [nbformat.v4.new_output("stream", text="hello")]
        cell.execution_count = number
    assert faults(ran)
    assert tidied(ran) == committed


@pytest.mark.drill
def test_a_new_member_of_staff_adds_a_model_with_a_price_and_twice_is_once(shared: Path, tmp_path: Path) -> None:
    """The sample's notebook, as somebody would use it who was given nothing else."""
    close_desks()
    told = {"new_model": "new-chat", "publish": True, "reason": "customers asked for it"}
    with environment({**sample_copy(shared, tmp_path), "PROVIDER_API_KEY": "given-by-the-provider"}):
        runs = [ops.run_notebook(FIRST_PRICES, told, folder=tmp_path / "runs") for _ in range(2)]
        change = {"model": "night-chat", "change": "-5%", "replaces": 5, "publish": True, "reason": "as agreed"}
        runs += [ops.run_notebook(FIRST_PRICES, change, folder=tmp_path / "runs") for _ in range(2)]
        assert [run.error for run in runs] == [""] * 4
        with ops.connect() as desk:
            models = desk.catalog.models().set_index("model")
            prices = desk.catalog.prices(history=True)
            providers = desk.catalog.providers()["name"].tolist()
    assert "given-by-the-provider" not in "".join(run.copy.read_text() for run in runs)
    assert models.loc["new-chat", ["published", "routes"]].tolist() == [True, 1]
    assert [str(models.loc["new-chat", name]) for name in ("input_usd", "output_usd")] == ["0.28", "1.12"]
    assert [str(models.loc["night-chat", name]) for name in ("input_usd", "output_usd")] == ["0.475", "1.9"]
    assert providers.count("acme-cloud") == 1
    assert prices["model"].value_counts()[["new-chat", "night-chat"]].tolist() == [1, 3]
