"""Owns what the crash tests share: clients that remember which answers they saw whole, and the books they are held against."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp

from models.prices import NANO_PER_CREDIT
from tests.faults.wire import CHAT, chat_body
from tests.rig import Customer, Price, Rig

PRICE = Price("1", "2")
GONE = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)
# A dead worker's lease has to run out, and another has to have had the database for as long.
EXPIRED_WITHIN_S = 60


@dataclass
class Client:
    """Calls on behalf of a customer, and remembers which answers it saw whole."""

    rig: Rig
    customer: Customer
    whole: list[str] = field(default_factory=list)
    refused: list[tuple[int, float]] = field(default_factory=list)

    async def call(
        self, session: aiohttp.ClientSession, alias: str, *, stream: bool, url: str | None = None, **fields: Any
    ) -> None:
        """One answer, whole or not; a server that is gone is no fault here. `url` is of another server than the rig's."""
        headers = {**self.customer.headers, "Content-Type": "application/json"}
        began = time.monotonic()
        with contextlib.suppress(*GONE):
            body = chat_body(alias, stream=stream, max_tokens=100, **fields)
            async with session.post((url or self.rig.url) + CHAT, data=body, headers=headers) as response:
                said = await response.read()
                if response.status != 200:
                    self.refused.append((response.status, time.monotonic() - began))
                elif not stream or said.endswith(b"data: [DONE]\n\n"):
                    self.whole.append(response.headers["x-request-id"])


class Granter:
    """An operator's notebook, which grants one credit after the other while the server lives and dies."""

    def __init__(self, rig: Rig, email: str) -> None:
        self.granted = 0
        self.error: BaseException | None = None
        self._rig, self._email = rig, email
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Granter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with self._rig.connect("notebook") as desk:
                while not self._done.wait(0.01):
                    key = f"notebook-{self._email}-{self.granted}"
                    desk.credits.grant(self._email, credits="1", reason="drill", grant_key=key)
                    self.granted += 1
        except BaseException as error:
            self.error = error


async def check_books(
    rig: Rig, user: Client, upstreams: list[str], *, granted: int, price: Price = PRICE
) -> dict[str, Any]:
    """After a restart: nothing held, every whole answer charged once, and no more charged than the provider served."""
    ada = user.customer
    await rig.settled(ada, within_s=EXPIRED_WITHIN_S)
    records = {record["request_id"]: record for record in rig.records(ada)}
    charged = {id_: record for id_, record in records.items() if record["charge_nano"]}
    assert len(set(user.whole)) == len(user.whole)
    assert set(user.whole) <= set(charged), "seen whole, and not charged"
    served = sum([await rig.provider.served(upstream) for upstream in upstreams])
    assert len(charged) <= served, "charged, and not served by the provider"
    for record in charged.values():
        assert record["outcome"] == "served"
        assert record["charge_nano"] == price.charge_nano(record["fresh_tokens"], record["output_tokens"])
    spent = int(Decimal(granted) * NANO_PER_CREDIT) - rig.balance_nano(ada)
    assert spent == sum(record["charge_nano"] for record in records.values())
    return charged
