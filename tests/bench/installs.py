"""The peers' own installations under `var/bench-peers/`: made when they are missing, kept between runs, pinned here."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.rounds import tell
from tests.bench.servers import ROOT, ServerFailed

FOLDER = ROOT / "var" / "bench-peers"
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
NPM = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]


def python_environment(name: str, requirement: str) -> Path:
    """The `bin` folder of a virtual environment that has this requirement."""
    folder = FOLDER / name
    if not is_there(folder, requirement):
        command([sys.executable, "-m", "venv", str(folder)])
        command([str(folder / "bin" / "python"), *PIP, requirement])
        mark(folder, requirement)
    return folder / "bin"


def node_modules(name: str, package: str, version: str, overrides: dict[str, str]) -> Path:
    """The `node_modules` folder that has this package, with other versions of what it needs where they are named."""
    wanted = json.dumps({"private": True, "dependencies": {package: version}, "overrides": overrides})
    folder = FOLDER / name
    if not is_there(folder, wanted):
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(wanted)
        command(NPM, folder)
        mark(folder, wanted)
    return folder / "node_modules"


def is_there(folder: Path, wanted: str) -> bool:
    """True when it was installed to its end as it is wanted now; otherwise nothing of it is left."""
    note = folder / "installed"
    if note.exists() and note.read_text() == wanted:
        return True
    tell(f"installing {folder.name} into {folder.relative_to(ROOT)} …")
    shutil.rmtree(folder, ignore_errors=True)
    return False


def mark(folder: Path, wanted: str) -> None:
    (folder / "installed").write_text(wanted)


def command(arguments: Sequence[str], folder: Path | None = None) -> None:
    try:
        ended = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ServerFailed(f"{arguments[0]} is needed for this peer, and is not installed") from None
    if ended.returncode:
        raise ServerFailed(f"{' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
