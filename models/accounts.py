"""Owns accounts and their logins: create, find, suspend, links to choose a password. Credits are in `credits.py`."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

import msgspec

from models.changes import ACCOUNT, OperatorWrite, operator_write
from models.checks import check_text
from models.database import Database
from models.errors import AlreadyExists, BadInput, NotFound
from models.ids import DAY_US
from models.money import FIRST_CUSTOMER
from models.passwords import hash_new_password
from models.records import Account, User

# Whoever had their data deleted is called by an address here, which nobody can take.
NOBODYS = "@deleted.invalid"
# Whether a mailbox exists only a mail can tell; this refuses what cannot be an address.
_EMAIL = re.compile(r"[^@\s<>()\",;:\\]+@[^@\s<>()\",;:\\]+")


class AccountInfo(msgspec.Struct, frozen=True):
    """An account as others may see it."""

    id: int
    email: str
    name: str
    suspended: bool = False


async def create_account(
    database: Database, operator: str, email: str, *, password: str | None = None, name: str | None = None
) -> AccountInfo:
    """A new account with one login. Without a password its owner chooses one through a reset link."""
    address = clean_email(email)
    shown = clean_name(address if name is None else name)
    password_hash = None if password is None else await hash_new_password(password)
    async with operator_write(database, operator) as write:
        return await add_account(write, address, shown, password_hash)


async def add_account(write: OperatorWrite, address: str, shown: str, password_hash: str | None) -> AccountInfo:
    """The account and its login, within a write. Raises AlreadyExists; `address` and `shown` are clean."""
    if address.endswith(NOBODYS):
        raise BadInput(f"email: {address} can be nobody's address", field="email")
    if await User.filter(email=address).exists():
        raise AlreadyExists(f"email: {address} already has an account", field="email")
    account = await Account.create(name=shown, created_us=write.at_us)
    await User.create(account_id=account.id, email=address, password_hash=password_hash, created_us=write.at_us)
    await write.audit("account.create", subject(account.id), after={"login": password_hash is not None})
    return AccountInfo(account.id, address, shown)


async def find_account(database: Database, email: str) -> AccountInfo:
    """Raises NotFound. To be called outside or inside a transaction of the current Tortoise context."""
    address = clean_email(email)
    user = await User.filter(email=address).select_related("account").using_db(database.connection).first()
    if user is None:
        raise NotFound(f"email: there is no account of {address}; create it first", field="email")
    account = user.account
    return AccountInfo(account.id, address, account.name, account.suspended_us is not None)


async def suspend_account(database: Database, operator: str, email: str, *, reason: str = "") -> AccountInfo:
    """All keys of the account stop within a second; nothing is lost. Suspending twice changes nothing."""
    return await _set_suspended(database, operator, email, suspended=True, reason=reason)


async def resume_account(database: Database, operator: str, email: str, *, reason: str = "") -> AccountInfo:
    """The account's keys work again."""
    return await _set_suspended(database, operator, email, suspended=False, reason=reason)


async def make_reset_link(database: Database, operator: str, email: str) -> str:
    """The path of a one-time page to choose a password, good for 24 hours. A new link replaces the one before."""
    token = secrets.token_urlsafe(32)
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        until_us = write.at_us + DAY_US
        await User.filter(email=account.email).update(reset_hash=hash_reset_token(token), reset_until_us=until_us)
        await write.audit("account.reset_link", subject(account.id), after={"reset_until_us": until_us})
    return f"/reset/{token}"


async def balance_rows(database: Database) -> list[dict[str, Any]]:
    """Every customer's account with its balance, what of it is held, and what is available."""
    return await database.rows(
        "SELECT u.email, a.id AS account_id, a.name, a.balance_nano, a.held_nano,"
        " a.balance_nano - a.held_nano AS available_nano, a.suspended_us, a.created_us"
        ' FROM account a LEFT JOIN "user" u'
        ' ON u.id = (SELECT MIN(first.id) FROM "user" first WHERE first.account_id = a.id)'
        " WHERE a.id >= ? ORDER BY u.email, a.id",
        [FIRST_CUSTOMER],
    )


def subject(account_id: int) -> str:
    """How the audit log names an account: it keeps no address, which its owner may have deleted."""
    return f"account {account_id}"


def clean_email(value: object) -> str:
    """The address in lower case. Raises BadInput for what cannot be one."""
    address = check_text(value, field="email", most=254).lower()
    if not _EMAIL.fullmatch(address):
        raise BadInput(f"email: {address!r} is not an e-mail address; write it like ada@example.com", field="email")
    return address


def clean_name(value: object) -> str:
    """How an account is called. Raises BadInput for what is empty, too long or has control characters."""
    return check_text(value, field="name", most=200)


def hash_reset_token(token: str) -> str:
    """What is stored of a reset link."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


async def _set_suspended(database: Database, operator: str, email: str, *, suspended: bool, reason: str) -> AccountInfo:
    async with operator_write(database, operator) as write:
        account = await find_account(database, email)
        if account.suspended == suspended:
            return account
        await Account.filter(id=account.id).update(suspended_us=write.at_us if suspended else None)
        await write.changed(ACCOUNT, account.id)
        await write.audit(
            "account.suspend" if suspended else "account.resume",
            subject(account.id),
            reason=reason,
            before={"suspended": account.suspended},
            after={"suspended": suspended},
        )
    return msgspec.structs.replace(account, suspended=suspended)
