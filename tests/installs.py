"""Owns what drills install of other people's programs: folders under `var/`, made once, from the package registries."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.rig import ROOT
from tests.servers import missing

_SHELF = ROOT / "var" / "test-clients"


def node_folder(*packages: str) -> Path:
    """A folder in which Node finds these packages. Skips, or fails in CI, where there is no Node or no registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("there is no Node on this machine; on Debian: apt-get install nodejs npm")
    return _installed("node", packages, ("npm", "install", "--no-audit", "--no-fund", "--prefix", "."))


def python_folder(*packages: str) -> Path:
    """A folder with a virtual environment of its own that has these packages."""

    def begin(folder: Path) -> None:
        venv.create(folder / "venv")

    # With our own pip, and without compiling the thousands of modules that are never imported.
    pip = (sys.executable, "-m", "pip", "--python", "venv/bin/python", "install", "--quiet", "--no-compile")
    return _installed("python", packages, pip, begin)


def _installed(kind: str, packages: tuple[str, ...], install: tuple[str, ...], begin: object = None) -> Path:
    name = hashlib.sha256(" ".join((kind, *packages)).encode()).hexdigest()[:8]
    folder = _SHELF / f"{kind}-{name}"
    _SHELF.mkdir(parents=True, exist_ok=True)
    # Two processes of one run may want the same.
    with (_SHELF / f"{kind}-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(folder, packages, install, begin)
    return folder


def _install(folder: Path, packages: tuple[str, ...], install: tuple[str, ...], begin: object) -> None:
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if callable(begin):
            begin(folder)
        done = subprocess.run(
            [*install, *packages], cwd=folder, capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode:
            missing(f"{', '.join(packages)} cannot be installed: {done.stderr[-500:]}")
        (folder / "complete").touch()
