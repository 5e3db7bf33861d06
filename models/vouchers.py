"""Owns vouchers: codes that are worth credits once. Making a batch of them, voiding them, redeeming one.

A code has 100 random bits and is stored as its SHA-256, so neither the database nor a guess gives one away. That is also why
a refusal may say what is wrong with a code: only who holds a real one learns anything, and never who used it or when.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.approvals import approval_above_nano
from models.changes import OperatorWrite, operator_write
from models.checks import MOST_BIGINT, check_amount, check_reason, check_text, check_whole
from models.codes import code_hint, hash_code, new_code
from models.database import Database
from models.errors import AlreadyExists, BadInput, Conflict, NotFound
from models.ids import now_us
from models.money import ISSUED, Move
from models.moves import move_and_sign
from models.prices import credits_text
from models.records import Account, Voucher, VoucherBatch

MOST_VOUCHERS = 10_000
_CHUNK = 500


class MadeVouchers(msgspec.Struct, frozen=True):
    """A batch just made. `codes` stand nowhere else: only their hashes are stored, and `repr` does not show them."""

    id: int
    name: str
    amount_nano: int
    expires_us: int | None
    codes: tuple[str, ...]

    def __repr__(self) -> str:
        worth = credits_text(self.amount_nano)
        return f"MadeVouchers(id={self.id}, name={self.name!r}, {len(self.codes)} of {worth} credits; .codes is shown once)"


class Redeemed(msgspec.Struct, frozen=True):
    """What a code was worth. `repeated`: this account had redeemed it before, and nothing was done now."""

    voucher_id: int
    amount_nano: int
    balance_nano: int
    repeated: bool


async def make_vouchers(
    database: Database,
    operator: str,
    name: str,
    amount_nano: int,
    count: int,
    expires_us: int | None,
    reason: str,
    *,
    above_nano: int | None = None,
) -> MadeVouchers:
    """`count` codes, each worth `amount_nano`, until `expires_us` (None: for ever). Raises AlreadyExists for a taken name.

    Nobody approves what a code gives, so none is worth more than a grant may be alone: `above_nano`, or the setting.
    """
    shown, why = check_text(name, field="name", most=200), check_reason(reason)
    check_whole(count, field="count", least=1, most=MOST_VOUCHERS)
    check_amount(amount_nano, most_nano=MOST_BIGINT // count)
    above = approval_above_nano(above_nano)
    if above is not None and amount_nano > above:
        raise BadInput(
            f"credits: more than {credits_text(above)} need a second operator, which a voucher has not; grant them instead",
            field="credits",
        )
    if expires_us is not None and check_whole(expires_us, field="expires_at", least=0) <= now_us():
        raise BadInput("expires_at: is in the past; give a later moment, or leave it out", field="expires_at")
    codes = tuple(new_code() for _ in range(count))
    hashes = [hash_code(code) for code in codes]
    async with operator_write(database, operator) as write:
        if await VoucherBatch.filter(name=shown).exists():
            raise AlreadyExists(f"name: there is a batch {shown!r} already; choose another name", field="name")
        batch = await VoucherBatch.create(
            name=shown,
            amount_nano=amount_nano,
            count=count,
            expires_us=expires_us,
            operator=write.operator,
            reason=why,
            created_us=write.at_us,
        )
        rows = [
            Voucher(batch_id=batch.id, code_hash=hash_, hint=code_hint(code))
            for code, hash_ in zip(codes, hashes, strict=True)
        ]
        await Voucher.bulk_create(rows, batch_size=_CHUNK)
        after = {"name": shown, "amount": credits_text(amount_nano), "count": count, "expires_us": expires_us}
        await write.audit("voucher.make", _subject(batch.id), reason=why, after=after)
    return MadeVouchers(batch.id, shown, amount_nano, expires_us, codes)


async def redeem(database: Database, operator: str, account_id: int, code: str) -> Redeemed:
    """Give the account what the code is worth (`issued` → account), once ever; the same account may say it again.

    Raises NotFound for an unknown code, Conflict for one that was used, withdrawn or has expired.
    """
    # Whoever guesses does not get as far as the lock that all writes share.
    hash_ = hash_code(code)
    if not await Voucher.filter(code_hash=hash_).using_db(database.connection).exists():
        raise NotFound("code: there is no voucher with this code; check it letter by letter", field="code")
    async with operator_write(database, operator) as write:
        voucher = await Voucher.get(code_hash=hash_).select_related("batch")
        amount_nano = voucher.batch.amount_nano
        account = await Account.get(id=account_id)
        if voucher.redeemed_us is not None and voucher.account_id == account_id:
            return Redeemed(voucher.id, amount_nano, account.balance_nano, repeated=True)
        _check_good(voucher, write.at_us)
        if account.balance_nano + amount_nano > MOST_BIGINT:
            raise BadInput("code: the balance would leave what it can hold; write to us", field="code")
        note = f"voucher {voucher.id} of {voucher.batch.name}"
        key = f"voucher:{voucher.id}"
        move = Move(ISSUED, account_id, amount_nano, "voucher", key, write.at_us, note, write.operator)
        moved, balance_nano = await move_and_sign(write, account_id, move, action="credits.voucher")
        if moved.repeated:
            raise Conflict(f"code: {key} was used as a grant key by hand; write to us", field="code")
        await Voucher.filter(id=voucher.id).update(redeemed_us=write.at_us, account_id=account_id)
    return Redeemed(voucher.id, amount_nano, balance_nano, repeated=False)


async def void_batch(database: Database, operator: str, name: str, *, reason: str) -> int:
    """Withdraw every voucher of the batch that nobody has redeemed; how many that were. Twice changes nothing."""
    why = check_reason(reason)
    async with operator_write(database, operator) as write:
        batch = await _find_batch(name)
        return await _void(write, _subject(batch.id), why, batch_id=batch.id)


async def void_voucher(database: Database, operator: str, voucher_id: int, *, reason: str) -> int:
    """Withdraw one. Raises Conflict when it was redeemed: then take the credits back instead. Twice changes nothing."""
    why = check_reason(reason)
    async with operator_write(database, operator) as write:
        is_id = isinstance(voucher_id, int) and not isinstance(voucher_id, bool)
        voucher = await Voucher.filter(id=voucher_id).first() if is_id else None
        if voucher is None:
            raise NotFound(f"voucher: there is none with id {voucher_id!r}; list the batch to find it", field="voucher")
        if voucher.redeemed_us is not None:
            raise Conflict(
                f"voucher: account {voucher.account_id} has redeemed it; take the credits back instead", field="voucher"
            )
        return await _void(write, f"voucher {voucher.id}", why, id=voucher.id)


async def voucher_batch_rows(database: Database) -> list[dict[str, Any]]:
    """Every batch, newest first, with how many of its vouchers were `redeemed` and how many are `void`."""
    return await database.rows(
        "SELECT b.id, b.name, b.amount_nano, b.count, COUNT(v.redeemed_us) AS redeemed, COUNT(v.void_us) AS void,"
        " b.expires_us, b.operator, b.reason, b.created_us FROM voucher_batch b JOIN voucher v ON v.batch_id = b.id"
        " GROUP BY b.id, b.name, b.amount_nano, b.count, b.expires_us, b.operator, b.reason, b.created_us"
        " ORDER BY b.id DESC"
    )


async def voucher_rows(database: Database, name: str) -> list[dict[str, Any]]:
    """The vouchers of one batch: id, hint, void_us, redeemed_us, and the account and address of who redeemed it."""
    batch = await _find_batch(name)
    return await database.rows(
        "SELECT v.id, v.hint, v.void_us, v.redeemed_us, v.account_id, u.email FROM voucher v"
        ' LEFT JOIN "user" u ON u.id = (SELECT MIN(first.id) FROM "user" first WHERE first.account_id = v.account_id)'
        " WHERE v.batch_id = ? ORDER BY v.id",
        [batch.id],
    )


# ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_good(voucher: Voucher, at_us: int) -> None:
    if voucher.redeemed_us is not None:
        raise Conflict("code: this voucher has been used already", field="code")
    if voucher.void_us is not None:
        raise Conflict("code: this voucher was withdrawn", field="code")
    if voucher.batch.expires_us is not None and voucher.batch.expires_us <= at_us:
        raise Conflict("code: this voucher has expired", field="code")


async def _find_batch(name: object) -> VoucherBatch:
    shown = check_text(name, field="name", most=200)
    batch = await VoucherBatch.filter(name=shown).first()
    if batch is None:
        raise NotFound(f"name: there is no batch {shown!r}; list the batches to find it", field="name")
    return batch


async def _void(write: OperatorWrite, subject: str, reason: str, **which: int) -> int:
    count = await Voucher.filter(redeemed_us__isnull=True, void_us__isnull=True, **which).update(void_us=write.at_us)
    if count:
        await write.audit("voucher.void", subject, reason=reason, after={"void": count})
    return count


def _subject(batch_id: int) -> str:
    return f"voucher batch {batch_id}"
