"""Owns the deletion of a customer's data: what says who they are goes, the books stay, under a number alone.

What transfers, usage and the audit log keep are ids. The account is suspended, its keys are revoked and its login can never be
used again; its address is free, and may sign up anew as somebody else.
"""

from __future__ import annotations

from models.accounts import NOBODYS, AccountInfo, clean_email, subject
from models.changes import ACCOUNT, OperatorWrite, operator_write
from models.checks import check_reason, check_whole
from models.database import Database
from models.errors import BadInput, NotFound
from models.money import FIRST_CUSTOMER
from models.records import Account, ApiKey, Invite, Session, User

ERASED_NAME = "deleted"


async def erase_account(database: Database, operator: str, account_id: int) -> None:
    """For good. Its keys stop within a second, its sessions at once. Twice changes nothing."""
    async with operator_write(database, operator) as write:
        await _erase(write, account_id, await _users(account_id), reason="")


async def erase_account_of(
    database: Database, operator: str, email: str, *, account_id: int, reason: str
) -> AccountInfo:
    """`erase_account` for a customer who asked for it elsewhere. It cannot be undone, so the number and the address have to be
    those of one account: raises NotFound or BadInput otherwise. Twice changes nothing."""
    address, why = clean_email(email), check_reason(reason)
    number = check_whole(account_id, field="account_id", least=FIRST_CUSTOMER)
    async with operator_write(database, operator) as write:
        users = await _users(number)
        if not users:
            raise NotFound(
                f"account_id: there is no account {number}; accounts.find shows whose is which", field="account_id"
            )
        # Who is erased has no address any more: then it must be nobody else's.
        is_another = (
            await User.filter(email=address).exclude(account_id=number).exists()
            if _are_erased(users)
            else address not in {user.email for user in users}
        )
        if is_another:
            raise BadInput(
                f"email: account {number} is not that of {address}, and nothing was erased; accounts.find shows whose it is",
                field="email",
            )
        await _erase(write, number, users, why)
    return AccountInfo(number, _nobody(number, 0), ERASED_NAME, suspended=True)


async def _users(account_id: int) -> list[User]:
    return await User.filter(account_id=account_id).order_by("id")


def _are_erased(users: list[User]) -> bool:
    return all(user.email.endswith(NOBODYS) for user in users)


def _nobody(account_id: int, number: int) -> str:
    return f"deleted-{account_id}{f'-{number}' if number else ''}{NOBODYS}"


async def _erase(write: OperatorWrite, account_id: int, users: list[User], reason: str) -> None:
    if _are_erased(users):
        return
    for number, user in enumerate(users):
        await _erase_login(write, user, _nobody(account_id, number))
    await Invite.filter(account_id=account_id).update(email=None)
    await ApiKey.filter(account_id=account_id, revoked_us__isnull=True).update(revoked_us=write.at_us)
    await ApiKey.filter(account_id=account_id).update(name=ERASED_NAME)
    account = Account.filter(id=account_id)
    await account.filter(suspended_us__isnull=True).update(suspended_us=write.at_us)
    await account.update(name=ERASED_NAME)
    await write.changed(ACCOUNT, account_id)
    await write.audit("account.erase", subject(account_id), reason=reason)


async def _erase_login(write: OperatorWrite, user: User, address: str) -> None:
    await Invite.filter(email=user.email).update(email=None, expires_us=write.at_us)
    await User.filter(id=user.id).update(email=address, password_hash=None, reset_hash=None, reset_until_us=None)
    sessions = Session.filter(user_id=user.id)
    await sessions.filter(ended_us__isnull=True).update(ended_us=write.at_us)
    await sessions.update(address="", agent="")
