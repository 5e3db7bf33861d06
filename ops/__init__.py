"""Verbs for operators, in notebooks and scripts alike: data frames in and out. The request path lives in `gateway`.

desk = ops.connect()
desk.credits.grant("ada@example.com", credits="1000", reason="welcome", grant_key="welcome-ada")
"""

from models.errors import (
    AlreadyExists,
    BadInput,
    Conflict,
    InsufficientCredits,
    LedgerUnavailable,
    NeedsConfirmation,
    NotFound,
    SetupError,
)
from models.keys import IssuedKey
from ops.archive import archive_sums
from ops.desk import Desk, connect, environments
from ops.grant_files import GrantsPreview
from ops.month_files import OutOfBalance
from ops.practice_invoice import practice_invoice
from ops.proposals import Proposal
from ops.runs import Run, run_notebook
from ops.sample_data import sample
from ops.verifier import Verdict, verify_export

__all__ = [
    "AlreadyExists",
    "BadInput",
    "Conflict",
    "Desk",
    "GrantsPreview",
    "InsufficientCredits",
    "IssuedKey",
    "LedgerUnavailable",
    "NeedsConfirmation",
    "NotFound",
    "OutOfBalance",
    "Proposal",
    "Run",
    "SetupError",
    "Verdict",
    "archive_sums",
    "connect",
    "environments",
    "practice_invoice",
    "run_notebook",
    "sample",
    "verify_export",
]
