"""Owns the command line of the verifier: `python -m ops.verify november.csv`. What it does is `verifier.py`."""

from __future__ import annotations

import argparse
import sys

from models.errors import DomainError
from ops.verifier import verify_export


def main() -> int:
    """0 when every file is what was made, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.verify", description="Verify a month's exports, without a database."
    )
    parser.add_argument("file", nargs="+")
    parser.add_argument("--digest", help="the digest that was noted when the export was made")
    asked, fine = parser.parse_args(), True
    for file in asked.file:
        try:
            verdict = verify_export(file, digest=asked.digest)
        except DomainError as error:
            sys.stderr.write(f"{error}\n")
            fine = False
            continue
        sys.stdout.write(f"{verdict}\n")
        fine = fine and verdict.ok
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
