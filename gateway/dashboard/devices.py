"""Owns browsers that have signed in before: each has tries of its own at the password.

So whoever guesses at it from elsewhere uses up the tries of strangers, and does not lock the account's owner out (OWASP
calls it device cookies). The cookie proves that somebody knew the password here, the one that still is; it is no way in
without one.
"""

from __future__ import annotations

import hashlib
import secrets

from gateway.dashboard.visits import Visit
from models.records import User

_DEVICE, _LASTING_S = "device", 400 * 86_400


def remember(visit: Visit, user: User) -> None:
    """This browser has just signed in as this user."""
    device = secrets.token_urlsafe(16)
    signature = visit.sign("device", _known(device, user))
    visit.cookies.set(_DEVICE, f"{device}.{signature}", lasting_s=_LASTING_S)


async def device_of(visit: Visit, email: str) -> str | None:
    """What this browser is called, if it has signed in as this e-mail address, written small, with the password of today."""
    device, _, signature = visit.cookies[_DEVICE].partition(".")
    if not signature:
        return None
    user = await User.filter(email=email).using_db(visit.database.connection).first()
    return device if user and visit.is_signed("device", _known(device, user), signature) else None


def _known(device: str, user: User) -> str:
    return f"{device}.{user.email}.{hashlib.sha256((user.password_hash or '').encode()).hexdigest()}"
