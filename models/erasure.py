"""Owns the deletion of a customer's data: what says who they are goes, the books stay, under a number alone.

What transfers, usage and the audit log keep are ids. The account is suspended, its keys are revoked and its login can never be
used again; its address is free, and may sign up anew as somebody else.
"""

from __future__ import annotations

from models.accounts import NOBODYS, subject
from models.changes import ACCOUNT, OperatorWrite, operator_write
from models.database import Database
from models.records import Account, ApiKey, Invite, Session, User

ERASED_NAME = "deleted"


async def erase_account(database: Database, operator: str, account_id: int) -> None:
    """For good. Its keys stop within a second, its sessions at once. Twice changes nothing."""
    async with operator_write(database, operator) as write:
        users = await User.filter(account_id=account_id).order_by("id")
        if all(user.email.endswith(NOBODYS) for user in users):
            return
        for number, user in enumerate(users):
            await _erase_login(write, user, f"deleted-{account_id}{f'-{number}' if number else ''}{NOBODYS}")
        await Invite.filter(account_id=account_id).update(email=None)
        await ApiKey.filter(account_id=account_id, revoked_us__isnull=True).update(revoked_us=write.at_us)
        await ApiKey.filter(account_id=account_id).update(name=ERASED_NAME)
        account = Account.filter(id=account_id)
        await account.filter(suspended_us__isnull=True).update(suspended_us=write.at_us)
        await account.update(name=ERASED_NAME)
        await write.changed(ACCOUNT, account_id)
        await write.audit("account.erase", subject(account_id))


async def _erase_login(write: OperatorWrite, user: User, address: str) -> None:
    await Invite.filter(email=user.email).update(email=None, expires_us=write.at_us)
    await User.filter(id=user.id).update(email=address, password_hash=None, reset_hash=None, reset_until_us=None)
    sessions = Session.filter(user_id=user.id)
    await sessions.filter(ended_us__isnull=True).update(ended_us=write.at_us)
    await sessions.update(address="", agent="")
