"""Owns what the charging tests share: many aliases at once, a client that leaves, and what a request cost by every count."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp

from tests.faults.wire import CHAT, chat_body
from tests.rig import Answer, Customer, Price, Rig, client

# A different price for each meter, so that a token in the wrong one shows.
PRICE = Price("0.27", "1.10", cached="0.07", written="0.33")


def aliases(rig: Rig, *upstream_models: str, **alias: Any) -> list[str]:
    """An alias for each upstream model, all in force when this returns."""
    names = [rig.alias(model, settled=False, **{"price": PRICE, **alias}) for model in upstream_models]
    rig.settle_feed()
    return names


def bill_nano(usage: dict[str, int], price: Price = PRICE) -> int:
    """What the provider's own count of a call costs a customer."""
    cached, written = usage["cached"], usage["written"]
    fresh = usage["prompt"] - cached - written
    return price.charge_nano(fresh=fresh, cached=cached, written=written, output=usage["completion"])


def record_of(rig: Rig, customer: Customer, answer: Answer) -> dict[str, Any]:
    """The usage record of an answer: there is exactly one, under the id that the answer carries."""
    found = [r for r in rig.records(customer) if r["request_id"] == answer.headers["x-request-id"]]
    assert len(found) == 1, found
    return found[0]


async def leave(rig: Rig, customer: Customer, model: str, *, events: int, **fields: Any) -> None:
    """Stream, read so many events (or all that there are), and close the connection."""
    body = chat_body(model, stream=True, **fields)
    headers = {**customer.headers, "Content-Type": "application/json"}
    async with client() as session:
        response = await session.post(rig.url + CHAT, data=body, headers=headers)
        assert response.status == 200, await response.text()
        seen = 0
        while seen < events and (line := await response.content.readline()):
            seen += line.startswith(b"data: ")
        response.close()


async def leave_after(rig: Rig, customer: Customer, model: str, seconds: float, **fields: Any) -> None:
    """Ask, and close the connection after that time, wherever the answer is."""
    body = chat_body(model, **fields)
    headers = {**customer.headers, "Content-Type": "application/json"}
    async with client() as session:
        try:
            async with asyncio.timeout(seconds), session.post(rig.url + CHAT, data=body, headers=headers) as response:
                await response.read()
        except (TimeoutError, aiohttp.ClientError):
            return


async def metric(rig: Rig, name: str, **labels: str) -> float:
    """A number of /metrics, over all workers; 0 when it does not stand there yet."""
    # What a worker has counted is written down when it is asked; then each of them shows the numbers of all.
    text = (await asyncio.to_thread(rig.workers.metrics))[-1]
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            return float(found[2])
    return 0.0


async def line_of(rig: Rig, request_id: str) -> str:
    """The only line of this request where people read the log."""
    async with asyncio.timeout(10):
        while not (found := [line for line in rig.server.log.read_text().splitlines() if request_id in line]):
            await asyncio.sleep(0.05)
    (line,) = found
    return line


async def logged(rig: Rig, words: str, count: int = 1) -> None:
    """Wait until the log, which is written a moment later, has these words so often at least."""
    async with asyncio.timeout(10):
        while rig.server.log.read_text().count(words) < count:
            await asyncio.sleep(0.05)
