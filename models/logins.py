"""Owns what customers do with their own login: check and choose a password, use a reset link, change their name.

The audit log says that it was done. It keeps no names, for it is never changed, and people may have their data deleted.
"""

from __future__ import annotations

from models.accounts import clean_email, clean_name, hash_reset_token, subject
from models.changes import OperatorWrite, operator_write
from models.database import Database
from models.errors import BadInput, NotFound
from models.ids import now_us
from models.passwords import hash_new_password, is_password
from models.records import Account, User
from models.sessions import SignedIn, end_sessions

_DEAD_LINK = "This link was used, was replaced by a newer one, or is older than 24 hours; ask our staff for another."


async def check_login(database: Database, email: str, password: str) -> User | None:
    """The user, if that is their password. It takes as long for an address that nobody has."""
    try:
        user = await User.filter(email=clean_email(email)).using_db(database.connection).first()
    except BadInput:
        # No address: nobody has it.
        user = None
    is_right = await is_password(password, user.password_hash if user else None)
    return user if is_right else None


async def change_password(database: Database, me: SignedIn, present: str, password: str) -> User:
    """All sessions end, this one too: whoever else had a cookie is out. Raises BadInput by field `present`, `password`."""
    user = await check_own_password(database, me, present, field="present")
    password_hash = await hash_new_password(password)
    async with operator_write(database, me.actor) as write:
        # Again: it may have been changed while this one was hashing, by somebody who wants to keep others out.
        if not await User.filter(id=user.id, password_hash=user.password_hash).exists():
            raise _not_yours("present")
        return await _choose(database, write, user, "login.password", password_hash)


async def check_own_password(database: Database, me: SignedIn, password: str, *, field: str) -> User:
    """Raises BadInput unless it is the password of who is signed in."""
    if not password:
        raise BadInput(f"{field}: is missing", field=field)
    user = await check_login(database, me.email, password)
    if user is None:
        raise _not_yours(field)
    return user


async def find_reset(database: Database, token: str) -> User:
    """Whose link it is. Raises NotFound, in one text for whatever is wrong with it."""
    user = await User.filter(reset_hash=hash_reset_token(token), reset_until_us__gt=now_us()).first()
    if user is None:
        raise NotFound(_DEAD_LINK, field="token")
    return user


async def use_reset(database: Database, token: str, password: str) -> User:
    """Choose a password by a link, once; all sessions end. Raises NotFound as `find_reset`, and BadInput."""
    user = await find_reset(database, token)
    password_hash = await hash_new_password(password)
    async with operator_write(database, subject(user.account_id)) as write:
        # Again: another may have used it while this one was hashing.
        return await _choose(database, write, await find_reset(database, token), "login.reset", password_hash)


async def rename(database: Database, me: SignedIn, name: str) -> None:
    """How the account is called. Raises BadInput with the field `name`; the same name again changes nothing."""
    shown = clean_name(name)
    async with operator_write(database, me.actor) as write:
        if await Account.filter(id=me.account_id).exclude(name=shown).update(name=shown):
            await write.audit("account.rename", subject(me.account_id))


def _not_yours(field: str) -> BadInput:
    return BadInput(f"{field}: this is not your password", field=field)


async def _choose(database: Database, write: OperatorWrite, user: User, action: str, password_hash: str) -> User:
    """A link that is still open is over, too: it was made for whoever did not know the password."""
    await User.filter(id=user.id).update(password_hash=password_hash, reset_hash=None, reset_until_us=None)
    await end_sessions(database, user.id, write.at_us)
    await write.audit(action, subject(user.account_id))
    return await User.get(id=user.id)
