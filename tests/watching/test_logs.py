"""What stands in the logs: a line for each request, all of it JSON where that is asked for, and nobody's words or secrets."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.books import leave, line_of, record_of
from tests.rig import Rig, close_desks, start_rig
from tests.stores import CLUSTER, SQLITE, on
from tests.watching.numbers import numbers, wait_for

CANARY = "canary"
WROTE = "canary-of-what-a-customer-wrote"
SAID = "canary-of-what-a-provider-said"
CREDENTIAL = "canary-provider-credential"


async def lines_of(rig: Rig, *request_ids: str, within_s: float = 10) -> list[dict[str, Any]]:
    """The lines of these requests, in the order asked for; fails for a line that is no JSON, or a request told twice."""
    deadline = time.monotonic() + within_s
    while True:
        found: dict[str, dict[str, Any]] = {}
        for line in rig.server.log.read_text().splitlines():
            told = json.loads(line)
            assert {"timestamp", "level", "event"} <= set(told)
            if told["event"] == "request":
                assert told["request_id"] not in found, "told twice"
                found[told["request_id"]] = told
        if set(request_ids) <= set(found):
            return [found[one] for one in request_ids]
        assert time.monotonic() < deadline, f"no line of {set(request_ids) - set(found)}"
        await asyncio.sleep(0.1)


async def test_a_request_is_told_in_one_line_that_agrees_with_its_bill(cluster: Rig) -> None:
    rig = cluster
    model = rig.alias("sim:status=503,tag=told", "sim:words=4,prompt=9,first_ms=50,tag=told")
    ada = rig.customer(models=[model])
    route = rig.sql("SELECT id FROM route WHERE upstream_model LIKE 'sim:words=4%tag=told'")[0][0]
    answers = [await rig.chat(ada, model), await rig.chat(ada, model, stream=True)]
    for answer, told in zip(answers, await lines_of(rig, *(a.headers["x-request-id"] for a in answers)), strict=True):
        await rig.recorded(ada, 2)
        record = record_of(rig, ada, answer)
        assert told["level"] == "info"
        assert told["model"] == model
        assert told["route"] == route
        assert (told["status"], told["outcome"]) == (200, "served")
        assert (told["fresh_tokens"], told["output_tokens"]) == (9, 4)
        assert int(float(told["credits"]) * 1e9 + 0.5) == record["charge_nano"]
        assert told["estimated"] is False
        assert told["key_id"] == ada.key_id
        assert told["attempts"] in (1, 2)
        assert 50 <= told["first_byte_ms"] <= told["duration_ms"]
        assert told["added_ms"] <= told["duration_ms"] - 50
    assert [told["stream"] for told in await lines_of(rig, *(a.headers["x-request-id"] for a in answers))] == [
        False,
        True,
    ]


async def test_refusals_failures_and_leavers_are_told_as_what_they_are(cluster: Rig) -> None:
    rig = cluster
    model = rig.alias("sim:status=500,tag=refused")
    slow = rig.alias("sim:words=40,gap_ms=50,tag=slow")
    ada = rig.customer(models=[model, slow])
    poor = rig.customer(models=[slow], credits="0")
    answers = [
        await rig.chat(ada, model),
        await rig.chat(ada, model, max_tokens=-1),
        await rig.chat(ada, "somebody-elses"),
        await rig.chat(poor, slow),
        await rig.post({"Authorization": "Bearer sk-wrong"}, b"{}"),
        await rig.post(ada.headers, b"{}", "/v1/nothing"),
    ]
    told = await lines_of(rig, *(answer.headers["x-request-id"] for answer in answers))
    assert [(line["status"], line["outcome"], line["error"]) for line in told] == [
        (502, "failed", "upstream_unavailable"),
        (400, "refused", "invalid_request"),
        (403, "refused", "model_not_allowed"),
        (402, "refused", "insufficient_credits"),
        (401, "refused", "invalid_api_key"),
        (404, "refused", None),
    ]
    await leave(rig, ada, slow, events=2)
    await rig.recorded(ada, 2)
    left = next(record for record in rig.records(ada) if record["outcome"] == "left")
    (line,) = await lines_of(rig, left["request_id"])
    assert (line["status"], line["outcome"], line["model"]) == (499, "left", slow)


async def test_what_the_ledger_refuses_is_told_as_free(cluster: Rig) -> None:
    rig, upstream = cluster, "sim:words=3,gate,tag=uncharged"
    model = rig.alias(upstream)
    ada = rig.customer(models=[model])
    calls = [asyncio.create_task(rig.chat(ada, model, stream=stream)) for stream in (False, True)]
    await rig.provider.wait(upstream, count=2)
    rig.sql("ALTER TABLE transfer ADD CONSTRAINT broken CHECK (kind <> 'charge') NOT VALID")
    try:
        await rig.provider.release(upstream)
        answers = await asyncio.gather(*calls)
    finally:
        rig.sql("ALTER TABLE transfer DROP CONSTRAINT broken")
    told = await lines_of(rig, *(answer.headers["x-request-id"] for answer in answers))
    assert {(line["status"], line["outcome"], line["credits"]) for line in told} == {(503, "failed", "0")}
    assert (await numbers(rig))("gateway_charged_requests_total", model=model) == 0
    assert rig.spent_nano(ada) == 0
    await wait_for(rig, "gateway_quarantine_size", 2)
    rig.sql("DELETE FROM quarantine")


async def test_no_secret_and_nobodys_words_stand_in_any_log(cluster: Rig) -> None:
    """Whatever goes wrong: what a customer wrote, what a provider answered, keys, credentials, addresses."""
    rig = cluster
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": SAID}}]})
    scripts = [
        await rig.provider.script("c1", chunks=[f'{{"error": {{"message": "{SAID}", "code": "{SAID}"}}}}']),
        await rig.provider.script("c2", chunks=[f"<html>{SAID}"], headers={"content-type": f"text/{SAID}"}),
        await rig.provider.script("c3", status=400, chunks=[f'{{"error": {{"message": "{SAID}", "code": "{SAID}"}}}}']),
        await rig.provider.script("c4", status=500, chunks=[f'{{"error": "{SAID}"}}']),
        *[
            await rig.provider.script(f"s{n}", headers={"content-type": "text/event-stream"}, chunks=chunks)
            for n, chunks in enumerate(
                [
                    [f'data: {{"error": {{"message": "{SAID}"}}}}\n\n'],
                    [f"data: {chunk}\n\n", f'data: {{"error": {{"message": "{SAID}"}}}}\n\n'],
                    [f"data: {chunk}\n\n", f"data: {SAID}\n\n"],
                    [f"data: {chunk}\n\n", f'data: {{"choices": "{SAID}"}}\n\n'],
                    [f"data: {chunk}\n\n", f'data: {{"choices": [{{"index": "{SAID}"}}]}}\n\n'],
                    [f"data: {chunk}\n\n"],
                ]
            )
        ],
        "sim:status=500,echo_key,tag=canary",
        "sim:status=400,echo_key,tag=canary",
        "sim:status=401,echo_key,tag=canary",
        "sim:words=3,usage=nan,tag=canary",
        "sim:words=3,cut=1,tag=canary",
        "sim:words=3,reset,tag=canary",
    ]
    # Each once whole and once as a stream, on a route of its own: one failure makes a route rest.
    ways = {rig.alias(script, settled=False): stream for script in scripts for stream in (False, True)}
    rig.settle_feed()
    rig.desk.accounts.create(f"{CANARY}-ada@example.com")
    rig.desk.credits.grant(f"{CANARY}-ada@example.com", credits="100", reason=WROTE, grant_key=WROTE)
    key = rig.desk.keys.issue(f"{CANARY}-ada@example.com", name=WROTE, models=list(ways)).secret
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": WROTE, "User-Agent": WROTE}
    ids = []
    for alias, stream in ways.items():
        body = {"model": alias, "messages": [{"role": "user", "content": WROTE}], "user": WROTE, "stream": stream}
        ids.append((await rig.post(headers, json.dumps(body).encode())).headers["x-request-id"])
    for body in (
        WROTE,
        f'{{"model": "{WROTE}", "messages": [{{"role": "user", "content": "{WROTE}"}}]}}',
        f'{{"{WROTE}": 1}}',
        f'{{"model": ["{WROTE}"]}}',
    ):
        ids.append((await rig.post(headers, body.encode())).headers["x-request-id"])
        ids.append((await rig.post({"Authorization": f"Bearer {WROTE}"}, body.encode())).headers["x-request-id"])
    ids.append((await rig.post(headers, b"{}", f"/v1/{WROTE}")).headers["x-request-id"])
    told = await lines_of(rig, *ids)
    assert {line["status"] for line in told} >= {200, 400, 401, 403, 404, 502}
    logs = rig.server.log.read_text()
    assert CREDENTIAL.startswith(CANARY)
    assert CANARY not in logs, [line for line in logs.splitlines() if CANARY in line][:3]
    assert key not in logs
    assert logs.count("an attempt failed") > 5, "the failures themselves are told"
    assert "a stream broke" in logs


@pytest.mark.parametrize(("kind", "workers"), [(SQLITE, 1), (CLUSTER, 2)])
async def test_a_server_tells_once_how_many_workers_serve_and_of_its_stop(
    tmp_path: Path, kind: str, workers: int
) -> None:
    close_desks()
    with (
        on(kind),
        start_rig(tmp_path, GATEWAY_LOG_FORMAT="json", GATEWAY_SINGUP="open", GATEWAY_SHUTDOWN_S="20") as rig,
    ):
        upstream = "sim:words=2,gate,tag=stages"
        model = rig.alias(upstream)
        ada = rig.customer(models=[model])
        call = asyncio.create_task(rig.chat(ada, model))
        await rig.provider.wait(upstream)
        assert [line["event"] for line in stages(rig)] == ["no setting has this name, it is left out", "serving"]
        assert (stages(rig)[1]["workers"], stages(rig)[1]["url"]) == (workers, rig.url)
        rig.server.popen.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while len(stages(rig)) < 3:
                await asyncio.sleep(0.05)
        assert not call.done()
        assert stages(rig)[2]["event"].startswith("stopping: ")
        assert stages(rig)[2]["within_s"] == 20
        await rig.provider.release(upstream)
        assert (await call).status == 200
        assert await asyncio.to_thread(rig.server.stop) == 0
        told = stages(rig)
        assert [line["event"] for line in told[3:]] == ["stopped"]
        rig.reconcile()
    close_desks()


def stages(rig: Rig) -> list[dict[str, Any]]:
    """What the log tells of the server's life."""
    told = [json.loads(line) for line in rig.server.log.read_text().splitlines()]
    return [line for line in told if line["event"].startswith(("no setting", "serving", "stopping: ", "stopped"))]


async def test_people_read_lines_and_not_json(rig: Rig) -> None:
    model = rig.alias("sim:words=2")
    ada = rig.customer(models=[model])
    request_id = (await rig.chat(ada, model)).headers["x-request-id"]
    line = await line_of(rig, request_id)
    assert f"model={model}" in line
    assert "status=200" in line
    assert not line.startswith("{")
