"""Owns what a committed notebook may hold: the outputs that are compared, and nothing of whoever ran it last.

`python -m tests.notebooks.tidy` says what is wrong, `--strip` removes it, and `--run` executes the notebooks on the sample and
stores the outputs of their compared cells.
"""

from __future__ import annotations

import argparse
import ast
import copy
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from tests.notebooks.sandbox import NOTEBOOKS, environment, sample_copy

MARK = "NBVAL_CHECK_OUTPUT"
MOST_CELLS = 25
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_SHOWN = ("text/plain", "text/html")
_FORBIDDEN = {
    "a key": r"\b(sk|pk|rk|whsec|ghp|xox[abp])[-_][A-Za-z0-9_-]{8,}",
    "a password": r"(?i)(pass(word|wd)|secret|token)[\"']?\s*[=:]\s*[\"'](?!…|\.\.\.)[^\"'\s]{4,}[\"']",
    "a password in an address": r"://[^/\s:@\"']+:[^/\s@\"']+@",
    "a one-time link": r"/(reset|invite|join)[/?][\w=-]{16,}",
    "an absolute path": r"(?<![\w.:/])(/(home|root|Users|tmp|var|usr|opt|work|mnt|private)/\S+|[A-Z]:\\\S+)",
    "an address that changes": r"<\S[^>]* at 0x[0-9a-f]+>",
}


def notebooks(names: list[str] | None = None) -> list[Path]:
    """Those of the project in their order, or the ones whose names begin so."""
    found = sorted(NOTEBOOKS.glob("*.ipynb"))
    return [path for path in found if not names or any(path.name.startswith(name) for name in names)]


def tidied(notebook: Any) -> Any:
    """Its cells, and the outputs of compared ones; nothing that depends on when, where and by whom it was run."""
    tidy = copy.deepcopy(notebook)
    tidy.metadata = nbformat.from_dict(_METADATA)
    for cell in tidy.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        compared = is_compared(cell)
        cell.outputs = [_output(output) for output in cell.outputs] if compared else []
        # nbval compares a cell only when it was run: the number is there, and always the same.
        cell.execution_count = 1 if compared and cell.outputs else None
    return tidy


def is_compared(cell: Any) -> bool:
    return cell.cell_type == "code" and MARK in cell.source


def faults(notebook: Any) -> list[str]:
    """What must not be committed, in words."""
    found = []
    if notebook != tidied(notebook):
        found.append("has outputs, counts or metadata of a run; remove them with: make format")
    if len(notebook.cells) > MOST_CELLS:
        found.append(f"has {len(notebook.cells)} cells; {MOST_CELLS} are the most, for one task")
    if not any("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells):
        found.append("has no cell with the tag `parameters`")
    for number, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", ()) and not _can_be_set(cell.source):
            found.append(
                f"cell {number}: parameters are lines of a name and a plain value each, so that a schedule can set them"
            )
        if is_compared(cell) and not cell.outputs:
            found.append(f"cell {number}: is compared and has no output; store it with: make notebooks")
        text = nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))
        for plain in (text, cell.source):
            wrong = {
                f"cell {number}: holds {what}: {m[0]}" for what, e in _FORBIDDEN.items() if (m := re.search(e, plain))
            }
            found += sorted(wrong - set(found))
    return found


def _can_be_set(parameters: str) -> bool:
    return all(
        isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and isinstance(line.value, ast.Constant)
        for line in ast.parse(parameters).body
    )


def run(path: Path, shared: Path) -> Any:
    """The notebook with the outputs of a run on the sample."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder, environment(sample_copy(shared, Path(folder))):
        NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
        ).execute()
    return notebook


def _output(output: Any) -> Any:
    kept = copy.deepcopy(output)
    if "execution_count" in kept:
        kept.execution_count = 1
    if "data" in kept:
        # Pictures differ from machine to machine, and widgets from run to run.
        kept.data = nbformat.from_dict({kind: kept.data[kind] for kind in _SHOWN if kind in kept.data})
        kept.metadata = nbformat.from_dict({})
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(prog="tidy", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names; all when there are none")
    parser.add_argument("--run", action="store_true", help="execute on the sample and store what is compared")
    parser.add_argument("--strip", action="store_true", help="remove what must not be committed")
    chosen = parser.parse_args()
    troubles = []
    with tempfile.TemporaryDirectory() as shared:
        for path in notebooks(chosen.names):
            notebook = nbformat.read(path, as_version=4)
            if chosen.run or chosen.strip:
                notebook = tidied(run(path, Path(shared)) if chosen.run else notebook)
                nbformat.write(notebook, path)
            troubles += [f"{path.name}: {fault}" for fault in faults(notebook)]
    print("\n".join(troubles), end="\n" if troubles else "", file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
