"""Owns signed-in browsers: beginning, finding, listing and ending sessions. Cookies are the dashboard's affair.

A session's token has 256 random bits and is stored as its SHA-256, so whoever reads the database cannot sign in with it.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from models.database import Database
from models.errors import Conflict, NotFound
from models.ids import DAY_US, SECOND_US
from models.records import Session, User

# A browser that is not used for two weeks is signed out, and every one after three months.
IDLE_US, LONGEST_US = 14 * DAY_US, 90 * DAY_US
# How often a session that is in use writes so; between two writes a look at a page reads only.
_SEEN_EVERY_US = 60 * SECOND_US
_IN_USE = "s.ended_us IS NULL AND s.expires_us > ? AND s.seen_us > ?"


class SignedIn(msgspec.Struct, frozen=True):
    """Whose session it is, as it stands now."""

    session_id: int
    user_id: int
    account_id: int
    email: str
    name: str
    suspended: bool
    seen_us: int

    @property
    def actor(self) -> str:
        """How the audit log names a customer: without personal data, for that log is never changed."""
        return f"account {self.account_id}"


async def begin_session(database: Database, user: User, *, address: str, agent: str, at_us: int) -> str:
    """A new session of the user; its token, which stands nowhere else.

    Raises Conflict when the user has another password since they were read, or none any more: checking one takes its time,
    and whoever changes a password or has their data deleted ends all sessions that there are by then.
    """
    token = secrets.token_urlsafe(32)
    async with database.transaction() as transaction:
        known = User.filter(id=user.id, password_hash=user.password_hash).using_db(transaction)
        # Locked, so that who changes the password meanwhile waits, and sees this session.
        if user.password_hash is None or await known.select_for_update().first() is None:
            raise Conflict("password: it was changed a moment ago; sign in again", field="password")
        await Session.create(
            user_id=user.id,
            token_hash=hash_token(token),
            created_us=at_us,
            seen_us=at_us,
            expires_us=at_us + LONGEST_US,
            address=address[:45],
            # Headers may hold bytes that are no text.
            agent=agent.encode("utf-8", "replace").decode()[:200],
            using_db=transaction,
        )
    return token


async def find_session(database: Database, token: str, at_us: int) -> SignedIn | None:
    """None for a token that was never made, has expired, or whose session was ended."""
    rows = await database.rows(
        "SELECT s.id AS session_id, s.user_id, u.account_id, u.email, a.name, a.suspended_us, s.seen_us FROM session s"
        ' JOIN "user" u ON u.id = s.user_id JOIN account a ON a.id = u.account_id'
        f" WHERE s.token_hash = ? AND {_IN_USE}",
        [hash_token(token), at_us, at_us - IDLE_US],
    )
    if not rows:
        return None
    row = rows[0]
    if at_us - row["seen_us"] > _SEEN_EVERY_US:
        await Session.filter(id=row["session_id"]).using_db(database.connection).update(seen_us=at_us)
    return SignedIn(suspended=row.pop("suspended_us") is not None, **row)


async def session_rows(database: Database, user_id: int, at_us: int) -> list[dict[str, Any]]:
    """The sessions in use: id, created_us, seen_us, address, agent; the one used last comes first."""
    return await database.rows(
        "SELECT s.id, s.created_us, s.seen_us, s.address, s.agent FROM session s"
        f" WHERE s.user_id = ? AND {_IN_USE} ORDER BY s.seen_us DESC, s.id DESC",
        [user_id, at_us, at_us - IDLE_US],
    )


async def end_session(database: Database, user_id: int, session_id: int, at_us: int) -> None:
    """End one session of this user. Raises NotFound for another's, and for one that never was. Twice does nothing."""
    if not await Session.filter(user_id=user_id, id=session_id).using_db(database.connection).exists():
        raise NotFound("session: there is no such session; reload the page", field="session")
    await _ending(database, user_id, id=session_id).update(ended_us=at_us)


async def end_sessions(database: Database, user_id: int, at_us: int, *, but: int | None = None) -> None:
    """End every session of the user, but the one named."""
    ending = _ending(database, user_id)
    await (ending if but is None else ending.exclude(id=but)).update(ended_us=at_us)


def hash_token(token: str) -> str:
    """What is stored of a token. It is random, so there is nothing to guess."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _ending(database: Database, user_id: int, **more: int) -> Any:
    return Session.filter(user_id=user_id, ended_us__isnull=True, **more).using_db(database.connection)
