"""The README is true: its commands exist, its code runs, and the files it names are there.

Its curl line and its SDK lines are run, as the demo prints them, by `tests/gateway/test_demo.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_make_target_it_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"run", "test", "bench", "drills"} <= named <= targets | {"it"}


def test_every_file_of_its_map_is_there() -> None:
    folder, missing = ROOT, []
    for line in blocks("")[0].splitlines():
        top = re.match(r"(\w+)/ ", line)
        if top:
            folder = ROOT / top[1]
        found = re.findall(r"\b(\w+\.py|\w+/)(?=[ ,;]|$)", line)
        missing += [name for name in found if not (folder / name).exists() and not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("command", sorted(set(re.findall(r"gateway ([a-z]+(?:-[a-z]+)?) ?(?=[\n#`|-])", README))))
def test_every_command_it_names_is_there(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", command, "--help"], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_lines_for_operators_run_as_they_stand(tmp_path: Path) -> None:
    lines = next(block for block in blocks("python") if "import ops" in block)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))} | {
        "GATEWAY_DATABASE_URL": f"sqlite://{tmp_path / 'shop.db'}",
        "PYTHONPATH": str(ROOT),
    }
    for arguments in (["-m", "gateway", "migrate"], ["-c", lines]):
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "sk-st-" in done.stdout
    assert "ada@example.com" in done.stdout


def test_every_setting_and_file_it_names_is_there() -> None:
    from gateway.settings import Settings, variable_of

    named = set(re.findall(r"\bGATEWAY_[A-Z_]+\b", README))
    assert len(named) > 10
    assert named <= {variable_of(name) for name in Settings.model_fields}
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert linked
    assert [name for name in linked if not (ROOT / name).exists()] == []


def test_the_lines_for_production_run_as_they_stand(tmp_path: Path) -> None:
    block = next(block for block in blocks("bash") if "gateway migrate  " in block)
    lines = block.replace("/srv/gateway", str(tmp_path)).splitlines()
    # The tests run in the environment that the first lines make; a server is started in nearly every other test.
    left_out = ("python3 -m venv", "pip install", "gateway serve")
    script = "\n".join(line for line in lines if not line.startswith(left_out))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        env={**inherited, "PATH": path, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"gateway.db", "gateway.db.secret"} <= {path.name for path in tmp_path.iterdir()}
