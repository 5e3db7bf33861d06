"""Re-rating: what is given back, taken and undone; once; all of it or nothing; and the books hold afterwards."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.accounts import create_account, find_account
from models.credits import grant, take_back
from models.database import Database
from models.errors import BadInput, Conflict, InsufficientCredits
from models.ids import DAY_US, SECOND_US, now_us
from models.invariants import check_invariants
from models.keys import issue_key
from models.money import REVENUE, WRITEOFF
from models.price_list import CANCEL_AHEAD_US, cancel_price, publish_price
from models.price_terms import price_from_usd
from models.prices import NANO_PER_CREDIT, Meters, nano_from_credits
from models.records import Account, Audit, Transfer
from models.rerating import Plan, Terms, plan_rerating, post_rerating
from tests.models.shop import Shop, sqlite_only, trace

ADA, BOB = "ada@example.com", "bob@example.com"
HALF = price_from_usd(input_usd="0.135", cached_input_usd="0.035", output_usd="0.55")
DOUBLE = price_from_usd(input_usd="0.54", cached_input_usd="0.14", output_usd="2.20")
# Of a request of a million fresh tokens: its charge, and half of it.
CHARGE = 27_000 * 10**6


async def bob(shop: Shop, credits: int = 1_000) -> Shop:
    """Another customer of the same models."""
    account = await create_account(shop.database, "olga", BOB)
    await grant(shop.database, "olga", BOB, credits * NANO_PER_CREDIT, "welcome", "welcome-bob")
    key = await issue_key(shop.database, "olga", BOB, name="k", models=["small-chat"])
    return Shop(shop.database, account.id, key.id, shop.model_id, shop.route_id, shop.price)


async def version(shop: Shop, terms: Any) -> int:
    return (await publish_price(shop.database, "olga", "small-chat", terms, reason="list")).id


async def plan(shop: Shop, price_id: int, start: int, email: str | None = None, until: int | None = None) -> Plan:
    account = None if email is None else (await find_account(shop.database, email)).id
    return await plan_rerating(shop.database, "small-chat", price_id, start, until or now_us(), account)


async def balance(database: Database, email: str) -> int:
    return (await Account.get(id=(await find_account(database, email)).id)).balance_nano


async def system(account: int) -> int:
    into = await Transfer.filter(credit_account=account)
    out = await Transfer.filter(debit_account=account)
    return sum(row.amount_nano for row in into) - sum(row.amount_nano for row in out)


async def the_books_hold(database: Database) -> None:
    assert [finding for finding in await check_invariants(database) if not finding.ok] == []


@pytest.mark.parametrize(("terms", "ada", "theirs"), [(HALF, CHARGE // 2, CHARGE), (DOUBLE, -CHARGE, -2 * CHARGE)])
async def test_too_much_is_given_back_and_what_is_missing_is_taken(
    shop: Shop, terms: Any, ada: int, theirs: int
) -> None:
    start, other = now_us(), await bob(shop)
    await shop.serve(Meters(fresh=10**6))
    await other.serve(Meters(fresh=2 * 10**6))
    planned = await plan(shop, await version(shop, terms), start)
    assert [(line.account, line.difference_nano) for line in planned.lines] == [(ADA, -ada), (BOB, -theirs)]
    posted = await post_rerating(shop.database, "olga", planned, reason="wrong list")
    assert await balance(shop.database, ADA) == 1_000 * NANO_PER_CREDIT - CHARGE + ada
    assert await balance(shop.database, BOB) == 1_000 * NANO_PER_CREDIT - 2 * CHARGE + theirs
    assert (posted.given_nano - posted.taken_nano, posted.writeoff_nano, posted.accounts) == (ada + theirs, 0, 2)
    assert await system(REVENUE) == sum(line.rerated_nano for line in planned.lines)
    await the_books_hold(shop.database)


async def test_posting_twice_is_posting_once(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    planned = await plan(shop, await version(shop, HALF), start)
    await post_rerating(shop.database, "olga", planned, reason="wrong list")
    after, traces = await balance(shop.database, ADA), await trace()
    again = await post_rerating(shop.database, "olga", planned, reason="wrong list")
    anew = await plan(shop, planned.terms.price_id, start, until=planned.terms.until_us)
    assert again.repeated
    assert anew.is_posted
    assert (await post_rerating(shop.database, "paul", anew, reason="once more")).repeated
    assert (await balance(shop.database, ADA), await trace()) == (after, traces)


async def test_two_operators_at_once_post_once(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    planned = await plan(shop, await version(shop, HALF), start)
    both = await asyncio.gather(*(post_rerating(shop.database, name, planned, reason="list") for name in ("a", "b")))
    assert sorted(posted.repeated for posted in both) == [False, True]
    assert await balance(shop.database, ADA) == 1_000 * NANO_PER_CREDIT - CHARGE // 2


async def test_a_time_is_not_re_rated_twice_in_different_ways(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    half, double = await version(shop, HALF), await version(shop, DOUBLE)
    planned = await plan(shop, half, start, ADA)
    other = await plan(shop, double, start)
    await post_rerating(shop.database, "olga", planned, reason="list")
    with pytest.raises(Conflict, match=r"re-rated from .* already"):
        await post_rerating(shop.database, "olga", other, reason="list")
    with pytest.raises(Conflict, match=f"by price version {half}"):
        await plan(shop, half, start, until=planned.terms.until_us - 1)
    assert not (await plan(shop, double, planned.terms.until_us)).is_posted
    assert (await plan(await bob(shop), double, start, BOB)).lines == ()
    assert await balance(shop.database, ADA) == 1_000 * NANO_PER_CREDIT - CHARGE // 2


SPANS = st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(SPANS, SPANS, st.sampled_from([None, 1, 2]), st.sampled_from([None, 1, 2]), st.sampled_from([1, 2]))
def test_two_times_overlap_when_one_request_could_be_in_both(
    one: tuple[int, int], two: tuple[int, int], mine: int | None, theirs: int | None, model: int
) -> None:
    first, second = Terms("m", 1, 7, *one, mine), Terms("m", model, 8, *two, theirs)
    shared = {
        (n, account)
        for n in range(*one)
        for account in (1, 2)
        if n in range(*two) and mine in (None, account) and theirs in (None, account) and model == 1
    }
    assert first.overlaps(second) == second.overlaps(first) == bool(shared)


@pytest.mark.parametrize(("usd", "back", "undone"), [("0.135", "6.5", "7"), ("0.24", "0", "3")])
async def test_what_was_written_off_is_not_given_back_but_undone(shop: Shop, usd: str, back: str, undone: str) -> None:
    """Of 27 credits Ada could pay 20. Had the request asked for 13.5, or for 24, less would have been written off."""
    await take_back(shop.database, "olga", ADA, 980 * NANO_PER_CREDIT, "less", "less")
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    assert (await balance(shop.database, ADA), await system(WRITEOFF)) == (0, -7 * NANO_PER_CREDIT)
    planned = await plan(shop, await version(shop, price_from_usd(input_usd=usd, output_usd="1")), start)
    await post_rerating(shop.database, "olga", planned, reason="wrong list")
    assert await balance(shop.database, ADA) == nano_from_credits(back)
    assert await system(WRITEOFF) == nano_from_credits(undone) - 7 * NANO_PER_CREDIT
    assert await system(REVENUE) == planned.lines[0].rerated_nano
    await the_books_hold(shop.database)


@pytest.mark.parametrize("shortfall", ["refuse", "writeoff"])
async def test_an_account_that_owes_more_than_it_has(shop: Shop, shortfall: Any) -> None:
    other = await bob(shop, credits=100)
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    await other.serve(Meters(fresh=10**6))
    await take_back(shop.database, "olga", BOB, 100 * NANO_PER_CREDIT - CHARGE - CHARGE // 4, "less", "less")
    planned, before = await plan(shop, await version(shop, DOUBLE), start), await trace()
    if shortfall == "refuse":
        with pytest.raises(InsufficientCredits, match=r"bob@example.com has 6.75 available and owes 27"):
            await post_rerating(shop.database, "olga", planned, reason="wrong list")
        assert await trace() == before
        assert await balance(shop.database, ADA) == 1_000 * NANO_PER_CREDIT - CHARGE
        return
    posted = await post_rerating(shop.database, "olga", planned, reason="wrong list", shortfall=shortfall)
    assert (posted.taken_nano, posted.writeoff_nano) == (CHARGE + CHARGE // 4, CHARGE - CHARGE // 4)
    assert await balance(shop.database, BOB) == 0
    assert await system(REVENUE) == 4 * CHARGE
    await the_books_hold(shop.database)


async def test_the_audit_log_keeps_what_was_done(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    planned = await plan(shop, await version(shop, HALF), start)
    await post_rerating(shop.database, "olga", planned, reason="wrong list")
    row = await Audit.all().order_by("-id").first()
    assert row is not None
    assert (row.action, row.operator, row.reason) == ("rerating.post", "olga", "wrong list")
    assert isinstance(row.after, dict)
    assert row.after | msgspec.structs.asdict(planned.terms) == row.after
    assert (row.after["billed"], row.after["rerated"], row.after["given"]) == ("27", "13.5", "13.5")
    transfer = await Transfer.all().order_by("-id").first()
    assert transfer is not None
    assert (transfer.debit_account, transfer.credit_account, transfer.kind) == (REVENUE, shop.account_id, "correction")
    assert str(transfer.grant_key).startswith(planned.terms.key)


KILLED = """
import asyncio, os, sys
import models.rerating
from models.database import open_database, parse_url
from models.rerating import plan_rerating, post_rerating

async def last_words(*_: object) -> None:
    os.kill(os.getpid(), 9)

async def main(url: str, price: str, since: str, until: str) -> None:
    async with open_database(parse_url(url)) as database:
        plan = await plan_rerating(database, "small-chat", int(price), int(since), int(until))
        models.rerating.OperatorWrite.audit = lambda *_, **__: last_words()
        await post_rerating(database, "olga", plan, reason="killed")

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_in_the_middle_nothing_was_posted_and_it_can_be_posted_again(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    planned = await plan(shop, await version(shop, HALF), start)
    terms, before = planned.terms, await trace()
    numbers = map(str, (terms.price_id, terms.since_us, terms.until_us))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, shop.database.url.text, *numbers)
    assert await process.wait() == -9
    assert (await trace(), await balance(shop.database, ADA)) == (before, 1_000 * NANO_PER_CREDIT - CHARGE)
    posted = await post_rerating(shop.database, "olga", planned, reason="again")
    assert (posted.given_nano, posted.repeated) == (CHARGE // 2, False)


async def test_usage_that_came_in_since_must_be_looked_at_first(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6), at_us=start)
    planned, before = await plan(shop, await version(shop, HALF), start), await trace()
    await shop.serve(Meters(fresh=10**6), at_us=start + 1)
    with pytest.raises(Conflict, match="preview it again"):
        await post_rerating(shop.database, "olga", planned, reason="list")
    assert await trace() == before


async def test_a_time_in_which_requests_still_run_waits_for_them(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6), at_us=start)
    running = await shop.hold(start + 1)
    half = await version(shop, HALF)
    with pytest.raises(Conflict, match="1 requests of this time still run"):
        await plan(shop, half, start)
    assert len((await plan(shop, half, start, until=start + 1)).lines) == 1
    assert running


async def test_what_comes_to_the_same_posts_nothing(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    planned, before = await plan(shop, shop.price.id, start), await trace()
    assert await post_rerating(shop.database, "olga", planned, reason="the same") is not None
    assert await trace() == before


async def test_a_cancelled_version_may_re_rate_though_it_was_never_in_force(shop: Shop) -> None:
    start = now_us()
    await shop.serve(Meters(fresh=10**6))
    ahead = now_us() + DAY_US
    discount = await publish_price(shop.database, "olga", "small-chat", HALF, reason="x", effective_us=ahead)
    await cancel_price(shop.database, "olga", discount.id, reason="for the past only")
    (line,) = (await plan(shop, discount.id, start)).lines
    assert line.back_nano == CHARGE // 2
    assert CANCEL_AHEAD_US < DAY_US


@sqlite_only
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"price_id": 999}, "price_version"),
        ({"price_id": True}, "price_version"),
        ({"model": "no-such"}, "model"),
        ({"until_us": now_us() + DAY_US}, "until"),
        ({"since_us": now_us() + DAY_US}, "until"),
        ({"reason": " "}, "reason"),
        ({"shortfall": "ignore"}, "shortfall"),
    ],
)
async def test_wrong_input_posts_nothing_and_is_named(shop: Shop, wrong: dict[str, Any], field: str) -> None:
    start = now_us() - SECOND_US
    await shop.serve(Meters(fresh=10**6))
    half, before = await version(shop, HALF), await trace()
    asked = {"model": "small-chat", "price_id": half, "since_us": start, "until_us": now_us()} | wrong
    more = {name: asked.pop(name) for name in ("reason", "shortfall") if name in asked}

    async def rerate() -> None:
        planned = await plan_rerating(shop.database, **asked)
        await post_rerating(shop.database, "olga", planned, **{"reason": "list", **more})

    with pytest.raises(BadInput) as refusal:
        await rerate()
    assert refusal.value.field == field
    assert await trace() == before
