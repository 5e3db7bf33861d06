"""Owns what a notebook that is tested runs on: a copy of the sample database of its own, and a fixed environment."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.database import file_lock
from ops.sample_data import make_sample
from tests.rig import ROOT

NOTEBOOKS = ROOT / "notebooks"


def sample_copy(shared: Path, folder: Path) -> dict[str, str]:
    """A copy of the sample in `folder`, and the variables by which a notebook finds it.

    The sample itself is made once in `shared`, whoever of several processes comes first.
    """
    shared.mkdir(parents=True, exist_ok=True)
    with file_lock(shared / "sample.lock", wait=True):
        original = make_sample(shared / "sample.db")
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "sample.db"
    for suffix in ("", ".secret"):
        shutil.copy(f"{original}{suffix}", f"{copy}{suffix}")
    return {
        "GATEWAY_DATABASE_URL": f"sqlite://{copy}",
        "OPS_OPERATOR": "olga",
        "OPS_APPROVAL_ABOVE": "1000",
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "TZ": "UTC",
        "COLUMNS": "120",
    }


@contextlib.contextmanager
def environment(told: Mapping[str, str]) -> Iterator[None]:
    """These variables alone, of those that this project reads; afterwards everything is as it was."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("GATEWAY_", "OPS_")):
            del os.environ[name]
    os.environ.update(told)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
