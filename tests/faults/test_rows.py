"""The table of this folder names every row of the list of faults, and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import tests.faults

HERE = Path(__file__).parent
ROWS = [*map(str, range(1, 54)), "19b", "40b", "40c"]


def proofs() -> dict[str, list[str]]:
    """The tests of each row."""
    found: dict[str, list[str]] = {}
    row = ""
    for line in (tests.faults.__doc__ or "").splitlines():
        entry = re.fullmatch(r" {4}(\d+[bc]?| +) +(\S+)(?: \([SC]\))?", line)
        if entry is not None:
            row = entry[1].strip() or row
            found.setdefault(row, []).append(entry[2])
    return found


def test_every_row_is_named() -> None:
    assert sorted(proofs()) == sorted(ROWS)


def test_every_test_that_is_named_is_there() -> None:
    here = "\n".join(file.read_text() for file in HERE.glob("test_*.py"))
    for names in proofs().values():
        for name in names:
            file, _, test = name.rpartition("::")
            text = (HERE.parent / f"{file}.py").read_text() if file else here
            assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), name
