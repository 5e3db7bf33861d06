"""Owns the command that a schedule calls: `python -m ops.run notebooks/04_billing_reports.ipynb -p month 2026-09`."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from models.errors import DomainError
from ops.runs import RUNS, run_notebook

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def main(arguments: list[str] | None = None) -> int:
    """0 when the notebook ran to its end, 1 when it failed, 2 when it could not be started."""
    parser = argparse.ArgumentParser(prog="python -m ops.run", description="Run a notebook and keep the executed copy.")
    parser.add_argument("path", help="the notebook")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter: a text, a whole number, true, false or none; may be repeated",
    )  # fmt: skip
    parser.add_argument("--reason", default="", help="why, for the audit log")
    parser.add_argument("--environment", help="one of ops.toml")
    parser.add_argument("--folder", default=RUNS, help="where the executed copy goes (%(default)s)")
    told = parser.parse_args(arguments)
    try:
        run = run_notebook(
            told.path,
            {name: _value(text) for name, text in told.parameter},
            reason=told.reason,
            environment=told.environment,
            folder=told.folder,
        )
    except DomainError as error:
        print("ops.run:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(run)
    return 0 if run.ok else 1


def _value(text: str) -> Any:
    """Decimals stay texts: money is never a float."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text


if __name__ == "__main__":
    sys.exit(main())
