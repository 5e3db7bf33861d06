"""Owns re-rating: a past time's requests for a model under another price version, and the transfers that make up for it.

Who paid in vain is given it back from `revenue`; what is missing is taken from the account, at most what is available. What
had been written off, and would not have been, goes from `revenue` back to `writeoff`. So revenue is afterwards what the
version asks for. The charges themselves and their records stay as they were.

A time is re-rated once: again with the same parameters does nothing, and one that overlaps it is refused, as what is
compensated already would be so once more. The audit log keeps the parameters; each transfer's grant key is made of them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from models.accounts import balance_rows
from models.catalog import find_model
from models.changes import OperatorWrite, operator_write
from models.checks import check_choice, check_reason
from models.database import Database
from models.errors import BadInput, Conflict, DomainError, InsufficientCredits
from models.ids import lowest_id, to_datetime
from models.ledger import apply_in
from models.money import REVENUE, WRITEOFF, Move, Moved
from models.months import month_of_id
from models.price_list import database_now_us, find_price
from models.prices import credits_text
from models.recharge import recharge
from models.records import Audit
from models.retention import kept_since

ACTION = "rerating.post"
KIND = "correction"
_SHOWN = 5


class Terms(msgspec.Struct, frozen=True):
    """What is re-rated: an alias' requests of a time (`until_us` excluded), of one account or of all (None), by a version."""

    model: str
    model_id: int
    price_id: int
    since_us: int
    until_us: int
    account_id: int | None = None

    @property
    def key(self) -> str:
        """The beginning of its grant keys."""
        whose = "all" if self.account_id is None else self.account_id
        return f"rerating:{self.model_id}:{self.price_id}:{self.since_us}:{self.until_us}:{whose}"

    def overlaps(self, other: Terms) -> bool:
        whose = {self.account_id, other.account_id}
        same = self.model_id == other.model_id and (None in whose or len(whose) == 1)
        return same and self.since_us < other.until_us and other.since_us < self.until_us


class Line(msgspec.Struct, frozen=True):
    """One customer. `back_nano` goes to the account (below zero: is taken); `unwritten_nano` is the write-off undone."""

    account_id: int
    account: str
    requests: int
    billed_nano: int
    rerated_nano: int
    back_nano: int
    unwritten_nano: int

    @property
    def difference_nano(self) -> int:
        return self.rerated_nano - self.billed_nano


class Plan(msgspec.Struct, frozen=True):
    """What re-rating would do. `is_posted`: it was done already."""

    terms: Terms
    lines: tuple[Line, ...]
    is_posted: bool


class Posted(msgspec.Struct, frozen=True):
    """What was done: nano-credits given back, taken, and written off instead. `repeated`: nothing, it was done before."""

    accounts: int
    given_nano: int
    taken_nano: int
    writeoff_nano: int
    repeated: bool = False

    def __repr__(self) -> str:
        if self.repeated:
            return "Posted before: nothing was done now"
        sums = (credits_text(nano) for nano in (self.given_nano, self.taken_nano, self.writeoff_nano))
        return "Posted to {:,} accounts; credits given back {}, taken {}, written off {}".format(self.accounts, *sums)


async def plan_rerating(
    database: Database, model: str, price_id: int, since_us: int, until_us: int, account_id: int | None = None
) -> Plan:
    """A line per customer who used the model then. Reads only.

    The version may be any of the model's: also a later one, or a cancelled one that never was in force. Raises BadInput for
    a time that is not over or no longer kept, Conflict when requests of it still run or it was re-rated in another way.
    """
    price = await find_price(database, price_id)
    alias = await find_model(model)
    if price.model_id != alias.id:
        raise BadInput(
            f"price_version: {price_id} is a price of {price.model}, not of {alias.alias}; list them to find one",
            field="price_version",
        )
    terms = Terms(alias.alias, alias.id, price.version.id, since_us, until_us, account_id)
    await _check_time(database, terms)
    is_posted = await _find_posted(terms)
    emails = {row["account_id"]: row["email"] or row["name"] for row in await balance_rows(database)}
    found = await recharge(database, {alias.id: price.version}, since_us, until_us, account_id=account_id)
    lines = tuple(
        Line(
            account_id=row.account_id,
            account=emails.get(row.account_id, str(row.account_id)),
            requests=row.requests,
            billed_nano=row.billed_nano,
            rerated_nano=row.recharged_nano,
            back_nano=row.overpaid_nano - row.unpaid_nano,
            unwritten_nano=row.unwritten_nano,
        )
        for row in found
    )
    return Plan(terms, lines, is_posted)


async def post_rerating(
    database: Database,
    operator: str,
    plan: Plan,
    *,
    reason: str,
    shortfall: Literal["refuse", "writeoff"] = "refuse",
) -> Posted:
    """Post all transfers of a plan in one transaction, or none. Again it does nothing.

    Where less is available than is missing, `shortfall` refuses, or takes what is there and writes off the rest. Raises
    Conflict when the sums have changed since they were looked at.
    """
    why = check_reason(reason)
    check_choice(shortfall, field="shortfall", choices=("refuse", "writeoff"))
    terms = plan.terms
    # The sums take their time, in which nobody else must wait.
    now = await plan_rerating(database, terms.model, terms.price_id, terms.since_us, terms.until_us, terms.account_id)
    if now.is_posted:
        return Posted(0, 0, 0, 0, repeated=True)
    if now.lines != plan.lines:
        raise Conflict(
            "rerating: the usage of this time has changed since it was looked at; preview it again", field="rerating"
        )
    if not any(line.back_nano or line.unwritten_nano for line in plan.lines):
        return Posted(0, 0, 0, 0)
    async with operator_write(database, operator) as write:
        if await _find_posted(terms):
            return Posted(0, 0, 0, 0, repeated=True)
        posted = await _apply(write, plan, why, shortfall)
        after = msgspec.structs.asdict(terms) | {
            "requests": sum(line.requests for line in plan.lines),
            "billed": credits_text(sum(line.billed_nano for line in plan.lines)),
            "rerated": credits_text(sum(line.rerated_nano for line in plan.lines)),
            "accounts": posted.accounts,
            "given": credits_text(posted.given_nano),
            "taken": credits_text(posted.taken_nano),
            "writeoff": credits_text(posted.writeoff_nano),
            "shortfall": shortfall,
            "grant_keys": f"{terms.key}:…",
        }
        await write.audit(ACTION, f"model {terms.model}", reason=why, after=after)
    return posted


async def _apply(write: OperatorWrite, plan: Plan, reason: str, shortfall: Literal["refuse", "writeoff"]) -> Posted:
    terms, moves = plan.terms, list[Move]()
    note = f"Re-rating of {terms.model} by price version {terms.price_id}: {reason}"
    for line in plan.lines:
        key = f"{terms.key}:{line.account_id}"
        if line.back_nano:
            sides = (REVENUE, line.account_id) if line.back_nano > 0 else (line.account_id, REVENUE)
            moves.append(Move(*sides, abs(line.back_nano), KIND, key, write.at_us, note, write.operator, shortfall))
        if line.unwritten_nano:
            sides = (REVENUE, WRITEOFF)
            moves.append(Move(*sides, line.unwritten_nano, KIND, f"{key}:writeoff", write.at_us, note, write.operator))
    outcomes = await apply_in(write.transaction, moves)
    _check_outcomes(plan, moves, outcomes)
    done = [(move, moved) for move, moved in zip(moves, outcomes, strict=True) if isinstance(moved, Moved)]
    return Posted(
        accounts=sum(1 for line in plan.lines if line.back_nano),
        given_nano=sum(
            m.amount_nano for move, m in done if move.debit_account == REVENUE and move.credit_account != WRITEOFF
        ),
        taken_nano=sum(moved.amount_nano for move, moved in done if move.credit_account == REVENUE),
        writeoff_nano=sum(moved.writeoff_nano for _, moved in done),
    )


def _check_outcomes(plan: Plan, moves: list[Move], outcomes: list[Any]) -> None:
    """Raises what went wrong; accounts that have too little are named together."""
    names = {line.account_id: line.account for line in plan.lines}
    short = []
    for move, outcome in zip(moves, outcomes, strict=True):
        if isinstance(outcome, InsufficientCredits):
            has, owes = credits_text(outcome.available_nano), credits_text(outcome.needed_nano)
            short.append(f"{names[move.debit_account]} has {has} available and owes {owes}")
        elif isinstance(outcome, DomainError):
            raise outcome
    if short:
        listed = "; ".join(short[:_SHOWN]) + (f"; and {len(short) - _SHOWN} more" if len(short) > _SHOWN else "")
        raise InsufficientCredits(
            f'{listed}. Nothing was posted; shortfall="writeoff" takes what is there, and writes off the rest'
        )


async def _check_time(database: Database, terms: Terms) -> None:
    now = await database_now_us(database)
    if not terms.since_us < terms.until_us <= now:
        raise BadInput(
            f"until: the time must be over and end after it began; got {to_datetime(terms.since_us).isoformat()} to "
            f"{to_datetime(terms.until_us).isoformat()}",
            field="until",
        )
    floor = await kept_since(database)
    if floor > lowest_id(terms.since_us):
        raise BadInput(f"since: usage before {month_of_id(floor)} is no longer kept; begin then", field="since")
    running = await database.rows(
        "SELECT COUNT(*) AS n FROM hold h JOIN price p ON p.id = h.price_id"
        " WHERE h.status = 'open' AND p.model_id = ? AND h.at_us < ?",
        [terms.model_id, terms.until_us],
    )
    if running[0]["n"]:
        raise Conflict(
            f"until: {running[0]['n']} requests of this time still run; wait for their end, or end the time earlier",
            field="until",
        )


async def _find_posted(terms: Terms) -> bool:
    """Whether just this was posted. Raises Conflict when something was that it overlaps."""
    for row in await Audit.filter(action=ACTION, subject=f"model {terms.model}").order_by("id"):
        other = msgspec.convert(row.after, Terms)
        if other == terms:
            return True
        if other.overlaps(terms):
            since, until = (to_datetime(us).isoformat() for us in (other.since_us, other.until_us))
            raise Conflict(
                f"since: {terms.model} was re-rated from {since} to {until} already, by price version {other.price_id}; "
                "choose a time outside of it, or correct single accounts with desk.credits",
                field="since",
            )
    return False
