"""Faults 41, 42 and 43: a blocked key stops, no way around the scope of a key, and no endpoint that nobody meters."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings import load_settings
from models.database import CHANGE_LOCK_ID
from tests.faults.wire import CHAT, chat_body
from tests.rig import Answer, Customer, Price, Rig, client, quoted
from tests.stores import Sql

EDITS_ARE_LIVE_WITHIN_S = 1.0


# ── faults 41: what an operator ends has ended a second later ─────────────────────────────────────────────────────


@dataclass
class Load:
    """One customer's calls to every worker, at each one after the other, with the moment at which each began."""

    rig: Rig
    customer: Customer
    alias: str

    def __post_init__(self) -> None:
        self.calls: list[tuple[float, Answer]] = []
        self._last = dict.fromkeys(self.rig.workers.pids, 0)

    async def run(self, until: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s

        async def ask_on(worker: int) -> None:
            while time.monotonic() < deadline and not until():
                began = time.monotonic()
                answer = await self.rig.at(worker, self.customer, self.alias)
                self.calls.append((began, answer))
                self._last[worker] = answer.status

        await asyncio.gather(*map(ask_on, self._last))

    def everywhere(self, status: int) -> bool:
        """Whether each worker's last answer was this."""
        return set(self._last.values()) == {status}

    def statuses_since(self, moment: float) -> set[int]:
        return {answer.status for began, answer in self.calls if began >= moment}


ENDINGS: dict[str, Callable[[Rig, Customer], Any]] = {
    "revoked": lambda rig, ada: rig.desk.keys.revoke(ada.key_id),
    "disabled": lambda rig, ada: rig.desk.keys.disable(ada.key_id),
    "suspended": lambda rig, ada: rig.desk.accounts.suspend(ada.email),
    "regenerated": lambda rig, ada: rig.desk.keys.regenerate(ada.key_id),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_key_under_load_is_refused_within_a_second_of_its_end(rig: Rig, ending: str) -> None:
    """Faults 41."""
    upstream = f"sim:words=1,tag={ending}"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    load = Load(rig, ada, alias)
    await load.run(lambda: len(load.calls) >= 20, 10)
    assert load.everywhere(200)
    running = asyncio.create_task(load.run(lambda: load.everywhere(401), 10))
    await asyncio.to_thread(ENDINGS[ending], rig, ada)
    ended = time.monotonic()
    await running
    assert load.everywhere(401)
    assert time.monotonic() - ended < EDITS_ARE_LIVE_WITHIN_S
    served = len(await rig.provider.calls(upstream))
    answers = await asyncio.gather(*[rig.chat(ada, alias, stream=i % 2 == 0) for i in range(20)])
    assert {answer.status for answer in answers} == {401}
    assert {answer.error["code"] for answer in answers} == {"invalid_api_key"}
    assert len(await rig.provider.calls(upstream)) == served


async def test_an_old_secret_stops_though_the_new_one_was_used_at_once(rig: Rig) -> None:
    """Faults 41: the new secret arrives at the server before it has read that the old one is no more."""
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    assert (await rig.chat(ada, alias)).status == 200
    issued = rig.desk.keys.regenerate(ada.key_id)
    regenerated = time.monotonic()
    anew = Customer(ada.email, ada.key_id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    assert (await rig.chat(anew, alias)).status == 200
    load = Load(rig, ada, alias)
    await load.run(lambda: load.everywhere(401), 3)
    assert load.everywhere(401)
    assert time.monotonic() - regenerated < EDITS_ARE_LIVE_WITHIN_S
    assert (await rig.chat(anew, alias)).status == 200


async def test_within_its_grace_an_old_secret_works_beside_the_new_one_and_then_no_more(rig: Rig) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    until = time.monotonic() + 3
    issued = rig.desk.keys.regenerate(ada.key_id, grace_s=3)
    anew = Customer(ada.email, ada.key_id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    rig.settle_feed()
    # By the old one first, as it is asked for the first time since; and then both are known.
    for customer in (ada, anew, ada):
        assert {answer.status for answer in await rig.everywhere(customer, alias)} == {200}
    load = Load(rig, ada, alias)
    await load.run(lambda: load.everywhere(401), 6)
    assert load.everywhere(401)
    assert until - 0.5 < load.calls[-1][0] < until + 1
    assert {answer.status for answer in await rig.everywhere(anew, alias)} == {200}


@pytest.mark.parametrize("ending", ["revoked", "disabled", "regenerated"])
async def test_a_grace_ends_with_its_key_and_with_the_next_secret(rig: Rig, ending: str) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    issued = rig.desk.keys.regenerate(ada.key_id, grace_s=3600)
    anew = Customer(ada.email, ada.key_id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    for customer in (ada, anew):
        assert {answer.status for answer in await rig.everywhere(customer, alias)} == {200}
    ENDINGS[ending](rig, ada)
    ended = time.monotonic()
    while {answer.status for c in (ada, anew) for answer in await rig.everywhere(c, alias)} != {401}:
        assert time.monotonic() - ended < EDITS_ARE_LIVE_WITHIN_S


async def test_a_disabled_key_and_a_suspended_account_come_back(rig: Rig) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    for end, begin in (
        (rig.desk.keys.disable, rig.desk.keys.enable),
        (rig.desk.accounts.suspend, rig.desk.accounts.resume),
    ):
        subject: Any = ada.key_id if end == rig.desk.keys.disable else ada.email
        end(subject)
        rig.settle_feed()
        assert (await rig.chat(ada, alias)).status == 401
        begin(subject)
        rig.settle_feed()
        assert (await rig.chat(ada, alias)).status == 200


async def test_an_answer_that_runs_while_its_key_is_revoked_is_finished_and_charged(rig: Rig) -> None:
    upstream = "sim:words=4,gate,tag=revoked-meanwhile"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    running = asyncio.create_task(rig.chat(ada, alias, stream=True))
    await rig.provider.wait(upstream)
    rig.desk.keys.revoke(ada.key_id)
    rig.settle_feed()
    await rig.provider.release(upstream)
    assert (await running).is_done
    await rig.settled(ada, records=1)
    assert rig.spent_nano(ada) > 0


async def test_a_key_expires_at_its_moment(rig: Rig) -> None:
    alias = rig.alias("sim:words=1")
    ada = rig.customer(models=[alias])
    expires = datetime.now(UTC) + timedelta(seconds=1.5)
    issued = rig.desk.keys.issue(ada.email, name="short", models=[alias], expires_at=expires)
    short = Customer(ada.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    deadline = time.monotonic() + (expires - datetime.now(UTC)).total_seconds()
    load = Load(rig, short, alias)
    await load.run(lambda: load.everywhere(401), 5)
    assert load.everywhere(401)
    assert len(load.calls) > 1
    assert load.calls[-1][0] == pytest.approx(deadline, abs=0.5)
    assert load.statuses_since(deadline + 0.01) <= {401}
    assert (await rig.chat(ada, alias)).status == 200


async def test_a_new_price_and_a_withdrawn_model_are_live_within_a_second(rig: Rig) -> None:
    """Faults 41: what notebooks write, the server reads."""
    alias = rig.alias("sim:words=1,prompt=10,completion=1", price=Price("1", "1"))
    ada = rig.customer(models=[alias])
    before = await rig.chat(ada, alias)
    rig.desk.catalog.propose_price(alias, input_usd="2", output_usd="2").publish(reason="test")
    published = time.monotonic()
    charged = {before.headers["x-credits-charged"]}
    while before.headers["x-credits-charged"] in charged:
        assert time.monotonic() - published < EDITS_ARE_LIVE_WITHIN_S
        charged = {answer.headers["x-credits-charged"] for answer in await rig.everywhere(ada, alias)}
    assert charged == {"0.0022"}
    rig.desk.catalog.unpublish(alias)
    withdrawn = time.monotonic()
    while 200 in [answer.status for answer in await rig.everywhere(ada, alias)]:
        assert time.monotonic() - withdrawn < EDITS_ARE_LIVE_WITHIN_S
    assert {answer.error["code"] for answer in await rig.everywhere(ada, alias)} == {"model_not_allowed"}


async def test_a_narrower_scope_is_live_within_a_second(rig: Rig) -> None:
    kept, taken = rig.alias("sim:words=1"), rig.alias("sim:words=1")
    ada = rig.customer(models=[kept, taken])
    assert (await rig.chat(ada, taken)).status == 200
    rig.desk.keys.set_models(ada.key_id, [kept])
    edited = time.monotonic()
    while 200 in [answer.status for answer in await rig.everywhere(ada, taken)]:
        assert time.monotonic() - edited < EDITS_ARE_LIVE_WITHIN_S
    assert {answer.status for answer in await rig.everywhere(ada, taken)} == {403}
    assert (await rig.chat(ada, kept)).status == 200


# ── faults 42: no way to name another model ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Shelf:
    """One customer who may call one alias, and another alias that she may not call."""

    ada: Customer
    mine: str
    theirs: str
    my_upstream: str
    their_upstream: str


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Shelf:
    mine, theirs = "sim:words=1,tag=mine", "sim:words=1,tag=theirs"
    aliases = rig.alias(mine), rig.alias(theirs)
    return Shelf(rig.customer(models=[aliases[0]]), *aliases, mine, theirs)


SAYS = '"messages":[{"role":"user","content":"Hello"}]'
REFUSED_BODIES = {
    "its name": '{{"model":"{theirs}",{says}}}',
    "its name, escaped": '{{"mod\\u0065l":"{theirs_escaped}",{says}}}',
    "twice, the other last": '{{"model":"{mine}",{says},"model":"{theirs}"}}',
    "a fallback list": '{{"model":"{mine}","models":["{theirs}"],{says}}}',
    "fallbacks": '{{"model":"{mine}","fallbacks":["{theirs}"],{says}}}',
    "a route": '{{"model":"{mine}","route":"fallback",{says}}}',
    "a provider": '{{"model":"{mine}","provider":{{"order":["fp"]}},{says}}}',
    "another address": '{{"model":"{mine}","base_url":"http://127.0.0.1:1/v1",{says}}}',
    "another api base": '{{"model":"{mine}","api_base":"http://127.0.0.1:1/v1",{says}}}',
    "a provider before its name": '{{"model":"fp/{theirs}",{says}}}',
    "the provider's name of it": '{{"model":"{their_upstream}",{says}}}',
    "the provider's name of the own": '{{"model":"{my_upstream}",{says}}}',
    "a space behind": '{{"model":"{theirs} ",{says}}}',
    "upper case": '{{"model":"{theirs_upper}",{says}}}',
    "a NUL": '{{"model":"{theirs}\\u0000",{says}}}',
    "two in a list": '{{"model":["{mine}","{theirs}"],{says}}}',
    "two with a comma": '{{"model":"{mine},{theirs}",{says}}}',
    "a wildcard": '{{"model":"*",{says}}}',
}


@pytest.mark.parametrize("way", REFUSED_BODIES)
async def test_a_body_cannot_name_a_model_beyond_the_scope(rig: Rig, shelf: Shelf, way: str) -> None:
    """Faults 42."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in shelf.theirs)
    names = {"theirs_escaped": escaped, "theirs_upper": shelf.theirs.upper(), "says": SAYS, **vars(shelf)}
    body = REFUSED_BODIES[way].format(**names).encode()
    before = len(await rig.provider.calls(shelf.my_upstream))
    answer = await rig.post(shelf.ada.headers, body)
    assert answer.status in (400, 403)
    assert answer.error["code"] in ("model_not_allowed", "unsupported_parameter", "invalid_request")
    assert not await rig.provider.calls(shelf.their_upstream)
    assert len(await rig.provider.calls(shelf.my_upstream)) == before


async def test_what_is_dispatched_is_what_was_checked(rig: Rig, shelf: Shelf) -> None:
    """Faults 42: with `model` twice, the one that was checked is the one that the provider reads, and the only one."""
    body = f'{{"model":"{shelf.theirs}",{SAYS},"model":"{shelf.mine}"}}'.encode()
    answer = await rig.post(shelf.ada.headers, body)
    assert (answer.status, answer.json["model"]) == (200, shelf.mine)
    sent = (await rig.provider.calls(shelf.my_upstream))[-1]["body_text"]
    assert sent.count('"model"') == 1
    assert shelf.theirs not in sent
    assert not await rig.provider.calls(shelf.their_upstream)


async def test_an_address_or_a_header_cannot_name_a_model(rig: Rig, shelf: Shelf) -> None:
    """Faults 42: query parameters and headers change nothing, and paths that carry a model do not exist."""
    theirs = quoted(shelf.theirs)
    for query in (f"?model={theirs}", f"?models={theirs}&provider=fp", f"?api-version=1&deployment={theirs}"):
        answer = await rig.post(shelf.ada.headers, chat_body(shelf.mine), CHAT + query)
        assert (answer.status, answer.json["model"]) == (200, shelf.mine)
        assert (await rig.post(shelf.ada.headers, chat_body(shelf.theirs), CHAT + query)).status == 403
    for name in ("x-model", "x-litellm-model", "helicone-model-override", "x-portkey-config", "x-fallback-models"):
        answer = await rig.post({**shelf.ada.headers, name: shelf.theirs}, chat_body(shelf.mine))
        assert (answer.status, answer.json["model"]) == (200, shelf.mine)
    for path in (
        f"{CHAT}/{theirs}",
        f"/v1/engines/{theirs}/chat/completions",
        f"/openai/deployments/{theirs}/chat/completions",
        f"/v1/models/{theirs}",
        "/v1/completions",
        "/chat/completions",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
    ):
        answer = await rig.post(shelf.ada.headers, chat_body(shelf.theirs), path)
        assert answer.status in (403, 404, 405), path
    assert not await rig.provider.calls(shelf.their_upstream)


async def test_a_fallback_stays_inside_its_alias(rig: Rig) -> None:
    """Faults 42: when every route of an alias fails, another alias with a working route is not called instead."""
    broken, working = rig.alias("sim:status=500,tag=scope-a"), rig.alias("sim:words=1,tag=scope-b")
    ada = rig.customer(models=[broken])
    assert (await rig.chat(ada, broken)).status == 502
    assert (await rig.chat(ada, working)).status == 403
    assert not await rig.provider.calls("sim:words=1,tag=scope-b")


# ── faults 43: every endpoint is metered, or calls no provider ────────────────────────────────────────────────────


async def test_no_endpoint_but_chat_completions_reaches_a_provider(rig: Rig) -> None:
    """Faults 43: walk the router of the application itself, so that an endpoint of tomorrow is in this test today."""
    upstream = "sim:words=1,tag=walk"
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    app = create_app(load_settings(), name="walked")
    app.finalize()
    endpoints = {(method, "/" + route.path.strip("/")) for route in app.router.routes for method in route.methods}
    assert ("POST", CHAT) in endpoints
    reached = set()
    async with client() as session:
        for method, path in sorted(endpoints):
            address = rig.url + "/".join("x" if part.startswith("<") else part for part in path.split("/"))
            headers = {**ada.headers, "Content-Type": "application/json"}
            before = len(await rig.provider.calls(upstream))
            async with session.request(
                method, address, data=chat_body(alias), headers=headers, params={"model": alias}, allow_redirects=False
            ) as response:
                assert response.status < 500, (method, path)
                await response.read()
            if len(await rig.provider.calls(upstream)) > before:
                reached.add((method, path))
    assert reached == {("POST", CHAT)}
    await rig.settled(ada, records=1)
    assert rig.spent_nano(ada) > 0


async def test_no_endpoint_of_the_api_answers_without_a_key(rig: Rig) -> None:
    """Faults 43: default deny."""
    for headers in (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic Og=="},
        {"Authorization": "Bearer sk-x"},
    ):
        for path in ("/v1/models", "/v1/models/any"):
            async with client() as session, session.get(rig.url + path, headers=headers) as response:
                assert (response.status, json.loads(await response.read())["error"]["code"]) == (401, "invalid_api_key")
        answer = await rig.post(headers, chat_body("any"))
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


# ── faults 40c: changes are read in the order in which they were committed ────────────────────────────────────────


@pytest.mark.only("cluster")
async def test_a_change_is_not_missed_though_its_writer_was_slow(rig: Rig) -> None:
    """Faults 40c: of two operators the first commits last, and a feed that is polled by id sees both."""
    alias = rig.alias("sim:words=1")
    ada, bob = (rig.customer(models=[alias]) for _ in range(2))
    for customer in (ada, bob):
        assert {answer.status for answer in await rig.everywhere(customer, alias)} == {200}
    with Sql(rig.database_url) as slow:
        # What a notebook does in one transaction when it disables a key, with a pause before its end.
        slow.rows("BEGIN")
        slow.rows("SELECT pg_advisory_xact_lock(?)", CHANGE_LOCK_ID)
        slow.rows("UPDATE api_key SET disabled_us = 1 WHERE id = ?", ada.key_id)
        slow.rows("INSERT INTO change (kind, subject_id, at_us) VALUES ('key', ?, 0)", ada.key_id)
        quick = asyncio.create_task(asyncio.to_thread(rig.desk.keys.revoke, bob.key_id))
        # Long enough for several polls of the feed.
        done, _ = await asyncio.wait([quick], timeout=0.8)
        assert not done, "the second one waits for the first"
        slow.rows("COMMIT")
    committed = time.monotonic()
    await quick
    for customer in (ada, bob):
        while {answer.status for answer in await rig.everywhere(customer, alias)} != {401}:
            assert time.monotonic() - committed < EDITS_ARE_LIVE_WITHIN_S
