"""Owns running a notebook by itself, as on a schedule: its parameters, the executed copy, and its row in the audit log."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from models.database import project_folder
from models.errors import BadInput, SetupError
from models.notebook_runs import record_run
from ops.desk import connect
from ops.table_files import need

RUNS = "var/runs"
_SECRET = re.compile(r"passw|secret|token|credential|api_?key", re.IGNORECASE)
_PLAIN = (str, int, bool, type(None))


class Run(msgspec.Struct, frozen=True):
    """A notebook that was run. `error` is the last line of what stopped it; the copy shows the rest."""

    notebook: str
    ok: bool
    copy: Path
    sha256: str
    error: str = ""

    def __repr__(self) -> str:
        ended = "ran to its end" if self.ok else f"FAILED ({self.error})"
        return f"{self.notebook} {ended}; executed copy {self.copy}, SHA-256 {self.sha256}"


def run_notebook(
    path: str | PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    reason: str = "",
    environment: str | None = None,
    folder: str | PathLike[str] = RUNS,
) -> Run:
    """Run a notebook from top to bottom with these values in its cell of parameters, and keep the executed copy.

    The copy stands in `folder`, read-only and named by the moment; the audit log of the environment, chosen as by
    `ops.connect`, says who ran what with which parameters, whether it failed, and the copy's SHA-256. A run that fails
    leaves both as well.
    Raises BadInput for a parameter that the notebook does not have, or that is a secret: both would stay in the log.
    """
    source, given = Path(path), dict(parameters or {})
    _check(source, given)
    with connect(environment=environment) as desk:
        target = _new_file(project_folder() / folder, source.stem)
        told = {} if environment is None else {"OPS_ENVIRONMENT": environment}
        error = _execute(source, target, given, {**told, "OPS_OPERATOR": desk.operator})
        target.chmod(0o444)
        run = Run(source.stem, not error, target, hashlib.sha256(target.read_bytes()).hexdigest(), error)
        # Not a change that a protected environment asks about: it only says what was done.
        work = record_run(
            desk._session.database,
            desk.operator,
            run.notebook,
            given,
            ok=run.ok,
            copy=target.name,
            sha256=run.sha256,
            reason=reason,
        )
        desk._session.run(work)
    return run


def _check(source: Path, given: Mapping[str, Any]) -> None:
    papermill = need("papermill")
    if not source.is_file() or source.suffix != ".ipynb":
        raise BadInput(f"path: there is no notebook {source}", field="path")
    try:
        known = papermill.inspect_notebook(str(source))
    except ValueError as error:
        raise BadInput(
            f"path: {source.name} cannot be run: {error}; save it in JupyterLab first", field="path"
        ) from None
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(known) or "it has none"
            raise BadInput(f"parameters: {source.stem} has no {name!r}; the parameters are: {listed}", field=name)
        if _SECRET.search(name):
            raise BadInput(f"parameters: {name} looks like a secret, and would stay in the audit log", field=name)
        if not isinstance(value, _PLAIN):
            raise BadInput(f"parameters: {name} must be a text, a whole number, True, False or None", field=name)


def _execute(source: Path, target: Path, given: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """What stopped it, or nothing. The copy is stored cell by cell, so that it is there however this ends."""
    papermill = need("papermill")
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=dict(given),
            kernel_name="python3",
            cwd=str(source.parent),
            progress_bar=False,
        )
    except Exception as error:
        if not target.stat().st_size:
            shutil.copyfile(source, target)
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1].strip() if lines else type(error).__name__
    finally:
        os.environ.clear()
        os.environ.update(before)
    return ""


def _new_file(folder: Path, stem: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1, 1_000):
        path = folder / f"{moment}-{stem}{'' if number == 1 else f'-{number}'}.ipynb"
        try:
            # Reserved: two runs of one second do not share a copy.
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise SetupError(f"{folder}: too many runs within one second")
