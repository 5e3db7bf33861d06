"""Owns what somebody had typed into a form when their session died: it goes through signing in, and can then be sent again.

It travels in the pages themselves, so nothing is stored. Only a form of our own page in this browser is kept, as its token
proves; of its fields those named here alone, no password among them; and nothing is done with them until their owner,
signed in again, has seen them and sends them.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import msgspec

from gateway.dashboard.guards import Forged, safe_next
from gateway.dashboard.visits import Visit

_LABELS = {
    "name": "Name",
    "models": "Models",
    "expires": "Last day (UTC)",
    "limit_requests": "Requests a minute",
    "limit_tokens": "Tokens a minute",
    "limit_concurrent": "Requests at once",
    "amount": "Amount in US dollars",
    "code": "Code",
}
# Encoded once more it must fit into what a stranger may send.
_MOST_LETTERS = 4_096


class Kept(msgspec.Struct, frozen=True):
    """A form that waits: where it goes, and its fields in their order."""

    action: str
    fields: list[tuple[str, str]]

    @property
    def text(self) -> str:
        return urlencode(self.fields)

    @property
    def shown(self) -> list[tuple[str, list[str]]]:
        """Label and values of each field."""
        names = dict.fromkeys(name for name, _ in self.fields)
        return [(_LABELS[name], [value for other, value in self.fields if other == name]) for name in names]


def typed_into(visit: Visit) -> Kept | None:
    """What stood in this form, which came after its session had died; None if there is nothing to keep."""
    try:
        visit.check_form()
    except Forged:
        return None
    return _kept(visit.request.path, [(name, value) for name in visit.form for value in visit.choices(name)])


def carried(visit: Visit) -> Kept | None:
    """What the sign-in form brings along."""
    return _kept(safe_next(visit.form.get("kept_for")), parse_qsl(visit.form.get("kept", "")))


def _kept(action: str, fields: list[tuple[str, str]]) -> Kept | None:
    kept = Kept(action, [(name, value) for name, value in fields if name in _LABELS and value])
    return kept if kept.fields and len(kept.text) <= _MOST_LETTERS else None
