"""Owns the codes that people type: of vouchers, of invitations. Making one, reading one as it was typed, what is stored of it.

A code has 100 random bits and is stored as its SHA-256, so neither the database nor a guess gives one away.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata

from models.checks import check_text
from models.errors import BadInput

# Crockford's digits: none is taken for another, and what people type for them (o, i, l) is understood.
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("OIL", "011")
_LENGTH, _GROUP = 20, 5
_CODE = re.compile(f"[{_DIGITS}]{{{_LENGTH}}}")


def new_code() -> str:
    """ABCDE-12345-FGHJK-67890, by chance."""
    digits = "".join(secrets.choice(_DIGITS) for _ in range(_LENGTH))
    return "-".join(digits[i : i + _GROUP] for i in range(0, _LENGTH, _GROUP))


def clean_code(code: object, *, field: str = "code") -> str:
    """The digits of a code however it was typed: case, spaces and dashes do not count. Raises BadInput for what is none."""
    text = check_text(code, field=field, most=100).upper()
    digits = "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Pd").translate(_MISREAD)
    if not _CODE.fullmatch(digits):
        raise BadInput(f"{field}: a code has {_LENGTH} letters and digits, like ABCDE-12345-FGHJK-67890", field=field)
    return digits


def hash_code(code: object, *, field: str = "code") -> str:
    """What is stored of a code. It is random, so there is nothing to guess."""
    return hashlib.sha256(clean_code(code, field=field).encode()).hexdigest()


def code_hint(code: str) -> str:
    """What may be shown again of a code."""
    return f"…{code[-4:]}"
