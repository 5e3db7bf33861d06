"""Faults 21 to 23: a balance for k requests, and thousands at once. What is owed is decided once, by the hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.wire import CHAT, chat_body
from tests.rig import Answer, Customer, Price, Rig, client, start_rig

# "Hello" in one message: 5 bytes of text and 16 for the message are the most that its input can be. The provider
# counts just as much, so a hold is exactly what it becomes, and a balance is good for exactly k.
COUNTED = "prompt=21,completion=5,words=5"
ASKED: dict[str, Any] = {"max_tokens": 5}
ONE = Price("1", "2").charge_nano(21, 5)


@pytest.fixture(scope="module", autouse=True)
def _the_books_are_right_afterwards(rig: Rig) -> Any:
    yield
    rig.reconcile()


@pytest.fixture(scope="module")
def patient_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The shared one gives a provider two seconds to begin: less than thousands of answers need on a busy machine."""
    with start_rig(tmp_path_factory.mktemp("patient")) as running:
        yield running
        running.reconcile()


async def test_thousands_at_once_on_a_balance_for_forty_serve_forty_and_refuse_the_rest(patient_rig: Rig) -> None:
    """Faults 21, and 23 where there are two workers. The provider holds every answer back: nothing is settled meanwhile."""
    rig = patient_rig
    count = 2_000 if rig.kind == "sqlite" else 5_000
    upstream = f"sim:{COUNTED},gate,tag=race"
    alias = rig.alias(upstream)
    ada = rig.customer(credits=credits_of(40 * ONE), models=[alias])
    async with Burst(rig, ada, alias, count) as burst:
        await rig.provider.wait(upstream, count=40, timeout=60)
        await burst.wait_for(count - 40)
        assert burst.statuses == {402: count - 40}
        assert rig.balance_nano(ada) == rig.held_nano(ada) == 40 * ONE
        await rig.provider.release(upstream)
        await burst.wait_for(count)
    assert burst.statuses == {402: count - 40, 200: 40}
    assert {a.error["code"] for a in burst.answers if a.status == 402} == {"insufficient_credits"}
    assert len(await rig.provider.calls(upstream)) == 40
    await rig.settled(ada, records=40)
    assert rig.balance_nano(ada) == 0


async def test_a_race_of_json_and_streams_never_takes_more_than_there_is(rig: Rig) -> None:
    """Faults 21, with settlements and holds in between each other, and outputs that nobody bounded."""
    upstream = f"sim:{COUNTED},tag=mixed"
    alias = rig.alias(upstream)
    ada = rig.customer(credits=credits_of(25 * ONE + ONE // 2), models=[alias])
    jobs = [rig.chat(ada, alias, stream=i % 2 == 0, **(ASKED if i % 3 else {})) for i in range(300)]
    answers = await asyncio.gather(*jobs)
    assert {answer.status for answer in answers} <= {200, 402}
    served = sum(answer.status == 200 for answer in answers)
    assert 1 <= served <= 25
    assert len(await rig.provider.calls(upstream)) == served
    await rig.settled(ada, records=served)
    assert rig.spent_nano(ada, granted=credits_of(25 * ONE + ONE // 2)) <= 25 * ONE + ONE // 2
    assert rig.balance_nano(ada) >= 0


async def test_a_rich_account_is_checked_like_any_other(rig: Rig) -> None:
    """Faults 22: eight hundred thousand credits, and requests of eight thousand each."""
    price = Price("10000", "10000")
    one = price.charge_nano(21, 8_192)
    upstream = "sim:prompt=21,completion=8192,words=5,gate,tag=rich"
    alias = rig.alias(upstream, price=price)
    ada = rig.customer(credits=credits_of(100 * one), models=[alias])
    async with Burst(rig, ada, alias, 200, max_tokens=8_192) as burst:
        await rig.provider.wait(upstream, count=100)
        await burst.wait_for(100)
        await rig.provider.release(upstream)
        await burst.wait_for(200)
    assert burst.statuses == {402: 100, 200: 100}
    assert len(await rig.provider.calls(upstream)) == 100
    await rig.settled(ada, records=100)
    assert rig.balance_nano(ada) == 0


async def test_two_customers_do_not_race_for_one_balance(rig: Rig) -> None:
    """The money of one account never pays for another, however their requests are batched together."""
    upstream = f"sim:{COUNTED},tag=two"
    alias = rig.alias(upstream)
    poor, rich = (rig.customer(credits=credits_of(k * ONE), models=[alias]) for k in (3, 60))
    answers = await asyncio.gather(*[rig.chat(who, alias, **ASKED) for _ in range(60) for who in (poor, rich)])
    assert Counter(a.status for a in answers[0::2]) == {200: 3, 402: 57}
    assert Counter(a.status for a in answers[1::2]) == {200: 60}
    assert rig.balance_nano(poor) == rig.balance_nano(rich) == 0


class Burst:
    """Many requests at once, in turn to each of the servers, whose answers are counted as they come."""

    def __init__(
        self, rig: Rig, customer: Customer, model: str, count: int, urls: list[str] | None = None, **asked: Any
    ) -> None:
        self.answers: list[Answer] = []
        self._customer, self._count, self._urls = customer, count, urls or [rig.url]
        self._body = chat_body(model, **(asked or ASKED))
        self._came = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(60), self._came:
            await self._came.wait_for(lambda: len(self.answers) >= count)

    async def __aenter__(self) -> Burst:
        self._client = client()
        self._session = await self._client.__aenter__()
        self._tasks = [asyncio.create_task(self._ask(self._urls[i % len(self._urls)])) for i in range(self._count)]
        return self

    async def __aexit__(self, *error: Any) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    async def _ask(self, url: str) -> None:
        headers = {**self._customer.headers, "Content-Type": "application/json"}
        async with self._session.post(url + CHAT, data=self._body, headers=headers) as response:
            answer = Answer(response.status, dict(response.headers), await response.read())
        async with self._came:
            self.answers.append(answer)
            self._came.notify_all()


def credits_of(nano: int) -> str:
    return f"{nano // 10**9}.{nano % 10**9:09d}"
