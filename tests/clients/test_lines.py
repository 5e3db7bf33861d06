"""The table of this folder names every line of the list of clients, and tests that there are; every numbered test is in it."""

from __future__ import annotations

import re
from pathlib import Path

import tests.clients

HERE = Path(__file__).parent
LINES = [str(number) for number in range(1, 27)]


def proofs() -> dict[str, list[str]]:
    """The tests of each line."""
    found: dict[str, list[str]] = {}
    number = ""
    for line in (tests.clients.__doc__ or "").splitlines():
        entry = re.fullmatch(r" {4}(\d+| +) +(\S+)(?: \(D\))?", line)
        if entry is not None:
            number = entry[1].strip() or number
            found.setdefault(number, []).append(entry[2])
    return found


def named_in(*files: Path) -> set[str]:
    return {
        name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }


def test_every_line_is_named() -> None:
    assert list(proofs()) == LINES


def test_every_test_that_is_named_is_there() -> None:
    here = named_in(*HERE.glob("test_*.py"))
    for names in proofs().values():
        for name in names:
            file, _, test = name.rpartition("::")
            assert test in (named_in(HERE.parent / f"{file}.py") if file else here), name


def test_a_test_with_a_lines_number_proves_a_line_that_there_is() -> None:
    for name in named_in(*HERE.glob("test_*.py")):
        numbers = re.match(r"test((?:_\d+)+)_[a-z]", name)
        if numbers is not None:
            assert set(numbers[1].strip("_").split("_")) <= set(LINES), name
