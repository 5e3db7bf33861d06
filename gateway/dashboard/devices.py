"""Owns browsers that have signed in before: each has tries of its own at the password.

So whoever guesses at it from elsewhere uses up the tries of strangers, and does not lock the account's owner out (OWASP
calls it device cookies). The cookie proves that somebody once knew the password here; it is no way in without one.
"""

from __future__ import annotations

import secrets

from gateway.dashboard.visits import Visit

_DEVICE, _LASTING_S = "device", 400 * 86_400


def remember(visit: Visit, email: str) -> None:
    """This browser has just signed in as this e-mail address, written small."""
    device = secrets.token_urlsafe(16)
    visit.cookies.set(_DEVICE, f"{device}.{visit.sign('device', f'{device}.{email}')}", lasting_s=_LASTING_S)


def device_of(visit: Visit, email: str) -> str | None:
    """What this browser is called, if it has signed in as this e-mail address before; another's cookie says nothing."""
    device, _, signature = visit.cookies[_DEVICE].partition(".")
    return device if visit.is_signed("device", f"{device}.{email}", signature) else None
