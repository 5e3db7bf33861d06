"""One account's ledger and its monthly statements: to the nano-credit, whatever was settled late or dropped."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest

from models.accounts import create_account, find_account
from models.credits import grant
from models.errors import BadInput, NotFound
from models.ids import DAY_US, new_request_id, now_us
from models.ledger import apply_in
from models.money import ISSUED, Capture, Command, Move, Place, Release
from models.months import CLOSES_AFTER_US, Month, month_of, parse_month
from models.prices import NANO_PER_CREDIT, Meters
from models.protections import GRACE_US
from models.retention import drop_usage
from models.statements import Line, Statement, ledger_page, month_statement, statement_months
from tests.models.shop import Shop

MINUTE_US = 60_000_000
METERS = Meters(fresh=1, output=1)
NOVEMBER = Month(2024, 11)


async def settle(shop: Shop, requests: list[tuple[int, int, int]]) -> None:
    """Requests as (when it began, how much later it was settled, its charge); some releases are mixed in."""
    commands: list[Command] = []
    epoch = await shop.epoch()
    for at_us, later_us, charge_nano in requests:
        id_ = new_request_id(at_us)
        commands.append(Place(id_, shop.account_id, charge_nano, charge_nano, shop.price.id, epoch, at_us))
        if charge_nano % 11 == 0:
            commands.append(
                Release(id_, shop.account_id, at_us + later_us, shop.usage_row(id_, at_us, METERS, "failed", False))
            )
        else:
            if later_us > GRACE_US:
                commands.append(Release(id_, shop.account_id, at_us + GRACE_US, expired=True))
            usage = shop.usage_row(id_, at_us, METERS, "served", False)
            commands.append(Capture(id_, shop.account_id, charge_nano, at_us + later_us, usage))
    await apply(shop, commands)


async def apply(shop: Shop, commands: list[Command]) -> None:
    async with shop.database.transaction() as transaction:
        outcomes = await apply_in(transaction, commands)
    assert not [one for one in outcomes if isinstance(one, Exception)]


async def move(shop: Shop, at_us: int, amount_nano: int) -> None:
    """Give credits at a moment, or take them when the amount is below zero."""
    accounts = (ISSUED, shop.account_id) if amount_nano > 0 else (shop.account_id, ISSUED)
    kind = "grant" if amount_nano > 0 else "refund"
    await apply(
        shop, [Move(*accounts, abs(amount_nano), kind, f"key-{random.random()}", at_us, "why", "olga", "writeoff")]
    )


async def transfers(shop: Shop) -> list[tuple[int, str, int]]:
    """The account's own, as the ledger has them: when, kind, and what it added to the balance."""
    rows = await shop.database.rows(
        "SELECT at_us, kind, CASE WHEN credit_account = ? THEN amount_nano ELSE -amount_nano END AS nano FROM transfer"
        " WHERE credit_account = ? OR debit_account = ? ORDER BY at_us, id",
        [shop.account_id] * 3,
    )
    return [(row["at_us"], row["kind"], row["nano"]) for row in rows]


async def whole_ledger(shop: Shop, limit: int, *, oldest_first: bool) -> list[Line]:
    lines: list[Line] = []
    after = None
    while True:
        page = await ledger_page(shop.database, shop.account_id, limit=limit, after=after, oldest_first=oldest_first)
        lines += page.lines
        assert page.next is None or len(page.lines) == limit
        if page.next is None:
            return lines
        after = page.next


def seconds(value: int) -> int:
    return value * 1_000_000


@pytest.mark.parametrize("seed", range(3))
async def test_months_and_pages_are_the_ledger_whenever_requests_were_settled(shop: Shop, seed: int) -> None:
    chance = random.Random(seed)
    first = NOVEMBER.start_us
    await move(shop, first - 40 * DAY_US, 10**15)
    delays = [0, 1, seconds(3), seconds(600), GRACE_US, GRACE_US + 1, 2 * DAY_US, 33 * DAY_US, -seconds(2)]
    requests = []
    for _ in range(160):
        at_us = first + chance.randrange(-20 * DAY_US, 75 * DAY_US)
        if chance.random() < 0.5:
            # Where it matters: around midnight, and around the ends of months.
            day = chance.choice([first, Month(2024, 12).start_us, Month(2025, 1).start_us, at_us // DAY_US * DAY_US])
            at_us = day + chance.choice([0, -1, 1, -seconds(1), -GRACE_US, -GRACE_US - 1, -GRACE_US + 1, -2 * GRACE_US])
        requests.append((at_us, chance.choice(delays), chance.randrange(1, 10**9)))
    await settle(shop, sorted(requests))
    for _ in range(12):
        at_us = first + chance.randrange(-20 * DAY_US, 90 * DAY_US)
        await move(shop, at_us, chance.choice([-1, 1]) * chance.randrange(1, 10**9))

    ledger = await transfers(shop)
    await check_months(shop, ledger)
    lines = await whole_ledger(shop, 500, oldest_first=True)
    check_lines(lines, ledger)
    assert lines[-1].balance_nano == sum(nano for *_, nano in ledger)
    for limit in (1, 7):
        assert await whole_ledger(shop, limit, oldest_first=True) == lines
        assert await whole_ledger(shop, limit, oldest_first=False) == lines[::-1]


async def check_months(shop: Shop, ledger: list[tuple[int, str, int]]) -> None:
    """Every month's statement is what a plain sum over all transfers says."""
    months = await statement_months(shop.database, shop.account_id)
    assert [one.month for one in months] == sorted({str(month_of(at)) for at, *_ in ledger}, reverse=True)
    statements = [
        await month_statement(shop.database, shop.account_id, parse_month(one.month, field="m")) for one in months
    ]
    for one in statements:
        month = parse_month(one.month, field="month")
        assert one.opening_nano == sum(nano for at, _, nano in ledger if at < month.start_us)
        assert one.closing_nano == sum(nano for at, _, nano in ledger if at < month.end_us)
        assert one.opening_nano + sum(line.amount_nano for line in one.lines) == one.closing_nano
        assert one.lines[-1].balance_nano == one.closing_nano
        check_lines(list(one.lines), [row for row in ledger if month.start_us <= row[0] < month.end_us])
        assert {line.model for line in one.lines if line.kind == "usage"} <= {"small-chat"}
    for newer, older in pairwise(statements):
        assert older.closing_nano == newer.opening_nano


def check_lines(lines: list[Line], ledger: list[tuple[int, str, int]]) -> None:
    days: dict[int, list[int]] = defaultdict(list)
    for at, kind, nano in ledger:
        if kind == "charge":
            days[at // DAY_US * DAY_US].append(nano)
    usage = [(line.at_us, line.requests, line.amount_nano) for line in lines if line.kind == "usage"]
    assert usage == [(day, len(some), sum(some)) for day, some in sorted(days.items())]
    singles = [(line.at_us, line.kind, line.amount_nano) for line in lines if line.kind != "usage"]
    assert singles == [row for row in ledger if row[1] != "charge"]


async def test_a_statement_says_what_an_accountant_asks(shop: Shop) -> None:
    start = NOVEMBER.start_us
    await move(shop, start - 1, 5_000)
    await settle(shop, [(start - 1, 1, 1_000), (start + 5 * DAY_US, 2, 7), (start + 5 * DAY_US, 5, 8)])
    await move(shop, start + 5 * DAY_US, 90)
    await move(shop, NOVEMBER.end_us, 1)
    statement = await month_statement(shop.database, shop.account_id, NOVEMBER)
    found = [
        (line.at_us, line.kind, line.model, line.requests, line.amount_nano, line.balance_nano)
        for line in statement.lines
    ]
    assert (statement.opening_nano, statement.closing_nano) == (5_000, 4_075)
    assert found == [
        (start, "usage", "small-chat", 1, -1_000, 4_000),
        (start + 5 * DAY_US, "grant", None, 0, 90, 4_090),
        (start + 5 * DAY_US, "usage", "small-chat", 2, -15, 4_075),
    ]
    assert (statement.lines[1].note, statement.lines[1].operator) == ("why", "olga")
    assert statement.closed


async def test_an_account_sees_nothing_of_another(shop: Shop) -> None:
    await create_account(shop.database, "olga", "bo@example.com")
    await grant(shop.database, "olga", "bo@example.com", NANO_PER_CREDIT, "hello", "hello-bo")
    bo = (await find_account(shop.database, "bo@example.com")).id
    await shop.serve(METERS)
    page = await ledger_page(shop.database, bo)
    assert [(line.kind, line.amount_nano) for line in page.lines] == [("grant", NANO_PER_CREDIT)]
    assert (page.next, page.balance_nano) == (None, NANO_PER_CREDIT)
    (only,) = await statement_months(shop.database, bo)
    assert not only.closed
    with pytest.raises(NotFound, match="no account 999"):
        await ledger_page(shop.database, 999)


async def test_a_page_stays_what_it_was_while_new_charges_come(shop: Shop) -> None:
    await settle(shop, [(NOVEMBER.start_us + day * DAY_US, 1, 5) for day in range(6)])
    first = await ledger_page(shop.database, shop.account_id, limit=3)
    second = await ledger_page(shop.database, shop.account_id, limit=3, after=first.next)
    await shop.serve(METERS)
    again = await ledger_page(shop.database, shop.account_id, limit=3, after=first.next)
    assert (again.lines, again.next) == (second.lines, second.next)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_wrong_questions_are_answered_with_what_is_right(shop: Shop) -> None:
    for cursor in ("x", "1-2-3", "-1-1", f"{2**60}-1"):
        with pytest.raises(BadInput, match="after"):
            await ledger_page(shop.database, shop.account_id, after=cursor)
    with pytest.raises(BadInput, match="limit"):
        await ledger_page(shop.database, shop.account_id, limit=0)
    with pytest.raises(BadInput, match="still to come"):
        await month_statement(shop.database, shop.account_id, month_of(now_us()).plus(1))


def test_a_month_closes_one_hour_after_its_end() -> None:
    assert not NOVEMBER.is_closed(NOVEMBER.end_us + CLOSES_AFTER_US - 1)
    assert NOVEMBER.is_closed(NOVEMBER.end_us + CLOSES_AFTER_US)


async def test_statements_of_kept_months_stay_when_older_records_are_dropped(shop: Shop) -> None:
    start = NOVEMBER.start_us
    await move(shop, start - 40 * DAY_US, 10**9)
    await settle(
        shop,
        [
            (start - 30 * DAY_US, 5, 1_000),
            (start - 2 * DAY_US, 8 * DAY_US, 1_002),
            (start - 3, 2, 1_003),
            (start - 3, 3, 1_004),
            (start - GRACE_US, GRACE_US, 1_005),
            (start + DAY_US, 5, 1_006),
        ],
    )
    before: Statement = await month_statement(shop.database, shop.account_id, NOVEMBER)
    lines = await whole_ledger(shop, 500, oldest_first=True)
    await drop_usage(shop.database, "olga", "2024-11", "old", now_us())
    assert await month_statement(shop.database, shop.account_id, NOVEMBER) == before
    assert [one.month for one in await statement_months(shop.database, shop.account_id)][-1] == "2024-11"
    with pytest.raises(BadInput, match="2024-10 were dropped; 2024-11 is the first kept"):
        await month_statement(shop.database, shop.account_id, Month(2024, 10))
    kept = await whole_ledger(shop, 500, oldest_first=True)
    (gone,) = [line for line in kept if line.before]
    assert (gone.at_us, gone.amount_nano) == (start, -1_000 - 1_003)
    assert gone.balance_nano == before.opening_nano
    assert kept[kept.index(gone) + 1 :] == [line for line in lines if line.at_us >= start]
    for limit in (1, 2):
        assert await whole_ledger(shop, limit, oldest_first=True) == kept
        assert await whole_ledger(shop, limit, oldest_first=False) == kept[::-1]
