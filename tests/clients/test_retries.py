"""What the official libraries do by themselves when they are refused, as a tap in front of the gateway sees and times it."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.stage import Stage, play
from tests.clients.tap import Request, Tap, tapped
from tests.rig import Customer, Rig, start_rig

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]
NEWEST = ["openai 3", "openai 7 for node"]
LIBRARIES = [*NEWEST, "openai 1", "openai 2", "openai 4 for node", "openai 5 for node", "openai 6 for node", "ai sdk"]
# Every one of them tries twice more by itself.
ATTEMPTS = 3
WINDOW_S = 6

Actor = tuple[Customer, dict[str, str]]


@dataclass(frozen=True)
class Refused:
    """What the tap saw of every library, each of them with a key of its own."""

    tap: Tap
    customers: dict[str, Customer]

    def of(self, library: str, model: str) -> list[Request]:
        return [one for one in self.tap.requests if one.key == self.customers[library].key and one.model == model]


@pytest.fixture(scope="module")
def stage(rig: Rig) -> Iterator[Stage]:
    yield Stage(rig)
    rig.reconcile()


async def play_all(
    stage: Stage, tap: Tap, actors: dict[str, Actor], asks: Sequence[dict[str, Any]], folder: Path
) -> list[Any]:
    """Every library makes these requests at the tap, all libraries at once; what each of them said."""

    async def one(library: str) -> Any:
        scene = stage.scene(*actors[library]) | {"base_url": tap.url + "/v1", "asks": list(asks)}
        return await play(library, scene, folder / library.replace(" ", "-"))

    return await asyncio.gather(*map(one, actors))


@pytest.fixture(scope="module")
def refused(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """Each library is refused in every way that is not about time."""
    actors = {library: stage.actor() for library in LIBRARIES}
    asks: list[dict[str, Any]] = [
        {"model": stage.alias["long"]}, {"model": "no-such-model"}, {"key": "sk-unknown"}, {"key": stage.poor.key},
        {"model": stage.alias["broken"]}, {"model": stage.alias["broken"], "stream": True},
    ]  # fmt: skip

    async def perform() -> Tap:
        async with tapped(stage.rig.url) as tap:
            for said in await play_all(stage, tap, actors, asks, tmp_path_factory.mktemp("refused")):
                assert all("error" in answer for answer in said), said
        return tap

    return Refused(asyncio.run(perform()), {library: customer for library, (customer, _) in actors.items()})


def test_what_waiting_cannot_mend_is_sent_once(stage: Stage, refused: Refused) -> None:
    for library in LIBRARIES:
        assert [request.status for request in refused.of(library, stage.alias["long"])] == [400], library
        assert [request.status for request in refused.of(library, "no-such-model")] == [403], library
    for key, status in (("sk-unknown", 401), (stage.poor.key, 402)):
        assert [one.status for one in refused.tap.requests if one.key == key] == [status] * len(LIBRARIES)


def test_an_outage_of_every_provider_is_tried_twice_more_with_pauses_and_free(stage: Stage, refused: Refused) -> None:
    for library, customer in refused.customers.items():
        requests = refused.of(library, stage.alias["broken"])
        assert len(requests) == 2 * ATTEMPTS, library
        assert_patient(library, requests[:ATTEMPTS], 502)
        assert_patient(library, requests[ATTEMPTS:], 502)
        assert stage.rig.spent_nano(customer) == 0


async def test_retry_after_is_waited_for_and_nothing_storms(stage: Stage, tmp_path: Path) -> None:
    """One request in six seconds is allowed: the second is refused once, waits as long as it is told, and is served."""
    actors = {library: stage.actor() for library in LIBRARIES}
    for customer, _ in actors.values():
        stage.rig.desk.limits.set(key=customer.key_id, unit="requests", quota=1, window_s=WINDOW_S)
    stage.rig.settle_feed()
    async with tapped(stage.rig.url) as tap:
        for said in await play_all(stage, tap, actors, [{}, {}], tmp_path):
            assert not any("error" in answer for answer in said), said
    for library, (customer, _) in actors.items():
        requests = [one for one in tap.requests if one.key == customer.key]
        assert [request.status for request in requests] == [200, 429, 200], library
        told_s = int(requests[1].headers["retry-after"])
        assert 1 < told_s <= WINDOW_S
        assert int(requests[1].headers["retry-after-ms"]) == told_s * 1000
        assert 0.9 * told_s <= waits(requests)[1] <= 1.1 * told_s, library
        stage.assert_books(customer, served=2)


@pytest.mark.only("sqlite")
async def test_our_own_outage_is_tried_twice_more_with_pauses_and_free(tmp_path: Path) -> None:
    """Somebody else holds the database: nothing can be charged, so nobody is admitted."""
    with start_rig(tmp_path / "rig") as rig:
        stage = Stage(rig, {"says": "sim:words=3", "long": "sim:status=400", "broken": "sim:status=500"})
        actors = {library: stage.actor() for library in NEWEST}
        # The keys are known before.
        for customer, _ in actors.values():
            assert (await rig.chat(customer, stage.alias["says"])).status == 200
        other = sqlite3.connect(rig.database_url.removeprefix("sqlite://"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            async with tapped(rig.url) as tap:
                for said in await play_all(stage, tap, actors, [{}], tmp_path):
                    assert "error" in said[0], said
        finally:
            other.execute("ROLLBACK")
            other.close()
        for library, (customer, _) in actors.items():
            requests = [one for one in tap.requests if one.key == customer.key]
            assert len(requests) == ATTEMPTS
            assert_patient(library, requests, 503)
            stage.assert_books(customer, served=1)
        rig.reconcile()


def waits(requests: list[Request]) -> list[float]:
    """From each answer to the next request."""
    return [after.came_at - before.answered_at for before, after in itertools.pairwise(requests)]


def assert_patient(library: str, requests: list[Request], status: int) -> None:
    """Pauses of half a second and a second, up to a quarter less of it; longer ones are the library's own affair."""
    assert {request.status for request in requests} == {status}, library
    first, second = waits(requests)
    assert first > 0.35, library
    assert second > 0.7, library
