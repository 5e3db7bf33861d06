"""Owns the small checks of what operators type: texts, whole numbers, choices. Prices: see `price_terms.py`."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Iterable

from models.errors import BadInput

MOST_BIGINT = 2**62
# Names of transfers that `vouchers.py` and `topups.py` make: whoever used one first would keep its voucher from its holder.
RESERVED_KEYS = ("voucher:", "stripe:", "rerating:")


def check_text(
    value: object, *, field: str, most: int, spaces: bool = True, lines: bool = False, secret: bool = False
) -> str:
    """`value` without spaces around it. Raises BadInput for other types, wrong lengths and control characters, and does not
    repeat a secret."""
    if value is None:
        raise BadInput(f"{field}: is missing", field=field)
    if not isinstance(value, str):
        raise BadInput(f"{field}: must be text, not {type(value).__name__}", field=field)
    text = value.strip() if spaces else value
    if not text:
        raise BadInput(f"{field}: is missing", field=field)
    if len(text) > most:
        raise BadInput(f"{field}: must have 1 to {most} characters, got {len(text)}", field=field)
    allowed = "\n\t" if lines else ""
    shown = "" if secret else f" {text!r}"
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in allowed for c in text):
        raise BadInput(f"{field}:{shown} has control characters; remove them", field=field)
    if not spaces and any(c.isspace() for c in text):
        raise BadInput(f"{field}:{shown} has spaces; remove them", field=field)
    return text


def check_whole(value: object, *, field: str, least: int, most: int = MOST_BIGINT) -> int:
    """`value` as an int. Raises BadInput unless it is a whole number (a data frame's, too; not a bool) in these bounds."""
    try:
        whole = operator.index(value) if not isinstance(value, bool) else None  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is None:
        raise BadInput(f"{field}: must be a whole number, not {value!r}", field=field)
    if not least <= whole <= most:
        raise BadInput(f"{field}: must be from {least} to {most}, got {whole}", field=field)
    return whole


def check_amount(nano: object, *, most_nano: int = MOST_BIGINT) -> None:
    """Raises BadInput for nano-credits that nobody can be given."""
    if check_whole(nano, field="credits", least=-MOST_BIGINT) < 1:
        raise BadInput("credits: must be above zero; to take credits use take_back", field="credits")
    check_whole(nano, field="credits", least=1, most=most_nano)


def check_choice(value: object, *, field: str, choices: Iterable[str]) -> str:
    """`value` as it is. Raises BadInput naming the choices when it is none of them."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise BadInput(f"{field}: must be one of {', '.join(known)}, got {value!r}", field=field)
    return value


def check_grant_key(value: object) -> str:
    """The name under which an operator moves credits once. Raises BadInput for names that are made by ourselves."""
    if value is None:
        raise BadInput(
            "grant_key: is missing; name this gift, for example by an invoice: a name counts once", field="grant_key"
        )
    key = check_text(value, field="grant_key", most=200)
    if key.startswith(RESERVED_KEYS):
        raise BadInput(f"grant_key: {', '.join(RESERVED_KEYS)} begin keys of ours; choose another", field="grant_key")
    return key


def check_reason(value: object) -> str:
    """The reason that an auditor will read. Raises BadInput when it is empty."""
    if value is None or value == "":
        raise BadInput("reason: is missing; say why, for whoever reads the books later", field="reason")
    return check_text(value, field="reason", most=2_000, lines=True)
