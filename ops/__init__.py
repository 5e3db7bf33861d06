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
from ops.desk import Desk, connect
from ops.proposals import Proposal

__all__ = [
    "AlreadyExists",
    "BadInput",
    "Conflict",
    "Desk",
    "InsufficientCredits",
    "IssuedKey",
    "LedgerUnavailable",
    "NeedsConfirmation",
    "NotFound",
    "Proposal",
    "SetupError",
    "connect",
]
