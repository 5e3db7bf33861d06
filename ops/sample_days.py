"""Owns what happened in the sample business, day by day: requests, failures, and credits that moved."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
from tortoise.backends.base.client import TransactionalDBClient

from models.changes import OperatorWrite
from models.ids import DAY_US, SECOND_US
from models.ledger import apply_in
from models.money import ISSUED, Capture, Command, Held, Move, Place, Release
from models.prices import NANO_PER_CREDIT, Meters, credits_text
from ops.sample_paperwork import paperwork_moves, signature
from ops.sample_stock import CUSTOMERS, DAYS, OPERATOR, Customer, Stock

_BATCH = 400
_OUTAGE_DAY, _OUTAGE_MODEL = 41, "large-chat"


def batches(stock: Stock, day: int, chance: random.Random) -> Iterator[list[Command]]:
    """A day in the order of time: each batch is settled before the next begins."""
    day_us = stock.first_us + day * DAY_US
    yield list(_moves(stock, day, day_us))
    asked = sorted(
        (day_us + _hour(chance) * 3_600 * SECOND_US + chance.randrange(3_600 * SECOND_US), customer)
        for customer in CUSTOMERS
        for _ in range(_requests(customer, day, chance))
    )
    commands: list[Command] = []
    for at_us, customer in asked:
        commands += _request(stock, customer, day, at_us, chance)
        if len(commands) >= _BATCH:
            yield commands
            commands = []
    yield commands


def _moves(stock: Stock, day: int, day_us: int) -> Iterator[Move]:
    def move(email: str, credits: str, kind: str, note: str, *, back: bool = False) -> Move:
        account, amount = stock.accounts[email], int(credits) * NANO_PER_CREDIT
        debit, credit = (account, ISSUED) if back else (ISSUED, account)
        key = f"sample-{kind}-{email}-{day}"
        return Move(debit, credit, amount, kind, key, day_us + 9 * 3_600 * SECOND_US, note, OPERATOR)

    if day == 0:
        for customer in CUSTOMERS:
            yield move(customer.email, customer.credits, "grant", "welcome")
    if day == 30:
        yield move("northwind@example.com", "1000", "grant", "invoice 2026-07")
    if day == 42:
        yield move("northwind@example.com", "25", "correction", "the outage of 11 August")
        yield move("acme-labs@example.com", "15", "correction", "the outage of 11 August")
    if day == 81:
        yield move("zephyr@example.com", "100", "refund", "closed their project", back=True)
    yield from paperwork_moves(stock, day, day_us + 9 * 3_600 * SECOND_US, OPERATOR)


def _requests(customer: Customer, day: int, chance: random.Random) -> int:
    if not customer.first_day <= day < customer.last_day:
        return 0
    number = customer.per_day + (customer.per_day_end - customer.per_day) * day // DAYS
    weekend = day % 7 in (3, 4)  # 1 July 2026 is a Wednesday
    if customer.email.startswith("weekend"):
        number = number * 6 if weekend else number // 3
    elif weekend:
        number = number // 2
    return max(0, number + chance.randint(-number // 6, number // 6))


def _hour(chance: random.Random) -> int:
    """Most work is done by day."""
    return min(23, max(0, round(chance.gauss(13, 4.5))))


def _request(stock: Stock, customer: Customer, day: int, at_us: int, chance: random.Random) -> list[Command]:
    model = chance.choice(customer.models)
    price, account_id = stock.price_at(model, at_us), stock.accounts[customer.email]
    request_id = _request_id(at_us, chance)
    fresh = max(20, int(chance.lognormvariate(0, 0.8) * customer.input_tokens))
    cached = fresh // 3 if chance.random() < 0.3 else 0
    meters = Meters(fresh - cached, cached, 0, max(1, int(chance.lognormvariate(0, 0.7) * customer.output_tokens)))
    failed = chance.random() < (0.85 if (day, model) == (_OUTAGE_DAY, _OUTAGE_MODEL) else 0.012)
    estimated = chance.random() < 0.01
    left = not failed and chance.random() < 0.008
    first_ms = int(chance.lognormvariate(6.1, 0.45))
    total_ms = first_ms + (0 if failed else meters.output * chance.randint(9, 16))
    charge = price.charge_nano(meters, at_us)
    cost = 0 if failed else stock.costs[model].charge_nano(meters, at_us)
    used = Meters() if failed else meters
    usage = (
        request_id, at_us, account_id, stock.keys[customer.email], stock.models[model], stock.routes[model], price.id,
        "failed" if failed else "left" if left else "served", chance.random() < 0.7, estimated and not failed,
        used.fresh, used.cached, used.written, used.output, first_ms, total_ms, cost,
        msgspec.json.encode([{"route": stock.routes[model], "status": 503 if failed else 200, "ms": total_ms}]).decode(),
    )  # fmt: skip
    place = Place(request_id, account_id, charge, charge * 2, price.id, stock.epoch_id, at_us)
    ended_us = at_us + total_ms * 1_000
    if failed:
        return [place, Release(request_id, account_id, ended_us, usage)]
    return [place, Capture(request_id, account_id, charge, ended_us, usage)]


def _request_id(at_us: int, chance: random.Random) -> str:
    """A UUIDv7, as the gateway makes them, but the same every time."""
    head, rest = f"{at_us // 1000:012x}", f"{chance.getrandbits(72):018x}"
    return f"{head[:8]}-{head[8:]}-7{rest[:3]}-8{rest[3:6]}-{rest[6:]}"


async def apply(transaction: TransactionalDBClient, commands: list[Command], stock: Stock) -> None:
    """What cannot be paid is refused at its hold, as the gateway does: then it never reached a provider."""
    places = [command for command in commands if isinstance(command, Place)]
    moves = [command for command in commands if isinstance(command, Move)]
    placed = await apply_in(transaction, [*moves, *places]) if moves or places else []
    held = {
        place.request_id
        for place, outcome in zip(places, placed[len(moves) :], strict=True)
        if isinstance(outcome, Held)
    }
    ends = [c for c in commands if isinstance(c, Capture | Release) and c.request_id in held]
    if ends:
        await apply_in(transaction, ends)
    for move in moves:
        operator, action = signature(move)
        write = OperatorWrite(transaction, operator, move.at_us)
        email = next(e for e, id_ in stock.accounts.items() if id_ in (move.debit_account, move.credit_account))
        await write.audit(
            action,
            f"account {stock.accounts[email]}",
            reason=move.note,
            after={"amount": credits_text(move.amount_nano), "grant_key": move.grant_key},
        )
