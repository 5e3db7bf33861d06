"""What `/metrics` says, of both workers together: the numbers that dashboards and alerts are made of."""

from __future__ import annotations

import asyncio
import json
import time
import zlib

import pytest

from gateway.metrics import _MOST_ACCOUNTS, Metrics
from tests.faults.books import leave
from tests.rig import Price, Rig
from tests.watching.numbers import numbers, wait_for

pytestmark = pytest.mark.drill


async def test_each_request_is_counted_once_by_alias_route_and_status(cluster: Rig) -> None:
    rig = cluster
    model = rig.alias("sim:status=500,tag=counted", "sim:words=5,prompt=7,tag=counted")
    ada = rig.customer(models=[model])
    before = await numbers(rig)
    answers = [*await rig.everywhere(ada, model), *await rig.everywhere(ada, model, stream=True)]
    assert {answer.status for answer in answers} == {200}
    refused = await rig.everywhere(ada, model, max_tokens=0)
    assert {answer.status for answer in refused} == {400}
    stranger = await rig.chat(ada, "made-up-by-a-client")
    assert stranger.status == 403
    now = await wait_for(rig, "gateway_requests_total", len(answers), model=model, status="200")
    first, second = (str(row[0]) for row in rig.sql(
        "SELECT r.id FROM route r JOIN model m ON m.id = r.model_id WHERE m.alias = ? ORDER BY r.position", model
    ))  # fmt: skip
    assert now("gateway_requests_total", model=model) == len(answers), "the route that served is named"
    assert now.labels("gateway_requests_total")["route"] >= {second, "none"}
    # Each worker tried the first route once; then it rests.
    assert now("gateway_attempts_total", route=first, result="500", provider="fp", model=model) == len(rig.workers.pids)
    assert now("gateway_attempts_total", route=second, result="200") == len(answers)
    assert now("gateway_route_cooling", route=first, model=model) == len(rig.workers.pids)
    assert now("gateway_route_cooling", route=second) == 0
    # What no alias was found for has one name, whatever the client sent.
    unknown = now("gateway_requests_total", model="unknown") - before("gateway_requests_total", model="unknown")
    assert unknown == len(refused) + 1
    assert "made-up-by-a-client" not in str(now.samples)
    # Tokens and credits as they were charged.
    assert now("gateway_tokens_total", model=model, meter="fresh") == 7 * len(answers)
    assert now("gateway_tokens_total", model=model, meter="output") == 5 * len(answers)
    charged_nano = Price().charge_nano(fresh=7, output=5) * len(answers)
    assert round(now("gateway_charged_credits_total", model=model) * 1e9) == charged_nano
    assert now("gateway_charged_requests_total", model=model) == len(answers)


async def test_what_the_gateway_adds_is_told_apart_from_what_the_provider_takes(cluster: Rig) -> None:
    rig = cluster
    model = rig.alias("sim:words=3,first_ms=400,think_ms=200")
    ada = rig.customer(models=[model])
    for stream in (False, True):
        assert (await rig.chat(ada, model, stream=stream)).status == 200
    now = await wait_for(rig, "gateway_added_seconds_count", 2, model=model)
    whole, added, first = (
        now(f"gateway_{name}_seconds_sum", model=model) for name in ("request", "added", "first_byte")
    )
    assert whole >= 1.2
    assert first >= 0.8
    assert added <= whole - 1.2, "all but the four waits at the provider"
    assert added > 0


async def test_a_client_that_leaves_is_counted_with_its_request(cluster: Rig) -> None:
    rig = cluster
    model = rig.alias("sim:words=20,gap_ms=100,tag=left")
    ada = rig.customer(models=[model])
    before = await numbers(rig)
    await leave(rig, ada, model, events=2)
    now = await wait_for(rig, "gateway_requests_total", 1, model=model, status="499")
    assert now("gateway_requests_total", model=model) == 1
    when = {"when": "after output"}
    assert now("gateway_client_left_total", **when) - before("gateway_client_left_total", **when) == 1


async def test_holds_quarantine_and_workers_are_shown_once_for_all(cluster: Rig) -> None:
    rig = cluster
    upstream = "sim:words=3,gate,tag=held"
    model = rig.alias(upstream)
    ada = rig.customer(models=[model])
    # A spool of somebody's who wrote no name into it.
    text = b'["release",{"request_id":"r","account_id":1,"at_us":1}]'
    nameless = rig.folder / "spool" / "nameless.spool"
    nameless.write_bytes(b"%08x %b\n" % (zlib.crc32(text), text))
    await wait_for(rig, "gateway_holds_open", 0)
    calls = [asyncio.create_task(rig.chat(ada, model)) for _ in range(6)]
    await rig.provider.wait(upstream, count=len(calls))
    now = await wait_for(rig, "gateway_holds_open", len(calls))
    assert 0 < now("gateway_oldest_hold_seconds") < 60
    assert now("gateway_requests_running") == len(calls)
    await rig.provider.release(upstream)
    assert {(await call).status for call in calls} == {200}
    now = await wait_for(rig, "gateway_holds_open", 0)
    assert now("gateway_oldest_hold_seconds") == 0
    assert now("gateway_workers") == now("gateway_workers_wanted") == len(rig.workers.pids)
    assert now("gateway_usage_partitions_missing") == 0
    assert -5 < now("gateway_change_feed_read_timestamp_seconds") - time.time() <= 0
    assert -5 < now("gateway_heartbeat_timestamp_seconds") - time.time() <= 0
    with_row = "INSERT INTO quarantine (at_us, request_id, error, command) VALUES (1, 'x', 'test', '') RETURNING id"
    ((row,),) = rig.sql(with_row)
    await wait_for(rig, "gateway_quarantine_size", 1)
    rig.sql("DELETE FROM quarantine WHERE id = ?", row)
    await wait_for(rig, "gateway_spools_left", 1)
    nameless.unlink()


async def test_what_http_itself_refuses_is_counted(cluster: Rig) -> None:
    rig = cluster
    before = (await numbers(rig))("gateway_http_errors_total", status="404")
    assert (await rig.post({}, b"{}", "/v1/nothing")).status == 404
    assert (await numbers(rig))("gateway_http_errors_total", status="404") == before + 1


async def test_a_worker_that_was_replaced_is_counted(cluster: Rig) -> None:
    rig = cluster
    before = await numbers(rig)
    rig.workers.kill(rig.workers.pids[0])
    now = await wait_for(rig, "gateway_worker_restarts_total", before("gateway_worker_restarts_total") + 1)
    assert now("gateway_requests_total") >= before("gateway_requests_total"), "what it had counted stays"
    await wait_for(rig, "gateway_workers", 2)


def test_names_and_labels_follow_the_conventions_and_are_bounded() -> None:
    metrics = Metrics()
    for account in range(2 * _MOST_ACCOUNTS):
        metrics.count_left(account, "before output")
    text = metrics.text().decode()
    assert text.count("gateway_client_left_total{") == _MOST_ACCOUNTS + 1
    assert f'account="others",when="before output"}} {_MOST_ACCOUNTS}.0' in text
    for family in metrics.registry.collect():
        assert family.name.startswith("gateway_"), json.dumps(family.name)
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
