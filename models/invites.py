"""Owns invitations: codes with which one person each may sign up, where `GATEWAY_SIGNUP` is `invite`.

A code is shown once and stored as its hash. Signing up with it makes the account and uses the code up in one transaction.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.accounts import AccountInfo, add_account, clean_email, clean_name
from models.changes import OperatorWrite, operator_write
from models.checks import check_whole
from models.codes import code_hint, hash_code, new_code
from models.database import Database
from models.errors import AlreadyExists, BadInput, Conflict, NotFound
from models.ids import DAY_US
from models.passwords import hash_new_password
from models.records import Invite, User

MOST_DAYS = 365


class MadeInvite(msgspec.Struct, frozen=True):
    """An invitation just made. `code` stands nowhere else, and is not shown by `repr`."""

    id: int
    code: str
    email: str | None
    expires_us: int

    @property
    def path(self) -> str:
        """Where it is used; put the dashboard's address first."""
        return f"/signup?invite={self.code}"

    def __repr__(self) -> str:
        whose = "anybody" if self.email is None else self.email
        return f"MadeInvite(id={self.id}, for {whose}; .code and .path are shown once)"


async def make_invite(database: Database, operator: str, email: str | None = None, *, days: int = 14) -> MadeInvite:
    """For one address, or (None) for whoever has the code. A new one for the same address replaces the one before.

    Raises AlreadyExists for an address that has an account.
    """
    address = None if email is None else clean_email(email)
    check_whole(days, field="days", least=1, most=MOST_DAYS)
    code = new_code()
    async with operator_write(database, operator) as write:
        if address is not None:
            if await User.filter(email=address).exists():
                raise AlreadyExists(f"email: {address} already has an account", field="email")
            open_ones = Invite.filter(email=address, used_us__isnull=True, expires_us__gt=write.at_us)
            await open_ones.update(expires_us=write.at_us)
        invite = await Invite.create(
            code_hash=hash_code(code),
            hint=code_hint(code),
            email=address,
            expires_us=write.at_us + days * DAY_US,
            operator=write.operator,
            created_us=write.at_us,
        )
        after = {"hint": invite.hint, "bound": address is not None, "expires_us": invite.expires_us}
        await write.audit("invite.make", f"invite {invite.id}", after=after)
    return MadeInvite(invite.id, code, address, invite.expires_us)


async def create_invited_account(
    database: Database, operator: str, email: str, code: str, *, password: str, name: str | None = None
) -> AccountInfo:
    """As `create_account`, by a code that is good for this address. Raises BadInput with the field `invite` for others."""
    address, hash_ = clean_email(email), hash_code(code, field="invite")
    shown = clean_name(address if name is None else name)
    # Whoever guesses does not get as far as the hashing, nor to the lock that all writes share.
    if not await Invite.filter(code_hash=hash_).using_db(database.connection).exists():
        raise NotFound("invite: there is no invitation with this code; check it letter by letter", field="invite")
    password_hash = await hash_new_password(password)
    async with operator_write(database, operator) as write:
        account = await add_account(write, address, shown, password_hash)
        await _use(write, hash_, account)
    return account


async def invite_rows(database: Database) -> list[dict[str, Any]]:
    """Every invitation, newest first: id, hint, email, created_us, expires_us, used_us, account_id, operator."""
    return await database.rows(
        "SELECT id, hint, email, created_us, expires_us, used_us, account_id, operator FROM invite ORDER BY id DESC"
    )


async def _use(write: OperatorWrite, hash_: str, account: AccountInfo) -> None:
    invite = await Invite.get(code_hash=hash_)
    if invite.used_us is not None:
        raise Conflict("invite: this invitation was used already; ask for another", field="invite")
    if invite.expires_us <= write.at_us:
        raise Conflict("invite: this invitation has expired; ask for another", field="invite")
    if invite.email is not None and invite.email != account.email:
        raise BadInput("invite: this invitation is for another e-mail address; use that one", field="invite")
    await Invite.filter(id=invite.id).update(used_us=write.at_us, account_id=account.id)
    await write.audit("invite.use", f"invite {invite.id}", after={"account_id": account.id})
