"""Traces as a collector gets them: of the requests that are sampled, true to what happened, with nobody's words in them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.traces import open_traces
from models.errors import SetupError
from tests.faults.books import leave
from tests.rig import ROOT, Rig, start_rig
from tests.watching.collector import Collector, collecting

pytestmark = pytest.mark.drill

WROTE, SAID = "canary-of-what-a-customer-wrote", "canary-of-what-a-provider-said"
# What is no header, as of somebody who forgot its name.
SECRET = "canary of a secret"
# A sampler of one in ten looks at the last eight bytes of the id: these are below and above a tenth of all.
SAMPLED, NOT_SAMPLED = "00" * 8, "ff" * 8


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with start_rig(
        tmp_path_factory.mktemp("traced"),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-collector-key=mine,{SECRET}",
        OTEL_TRACES_SAMPLER="traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.1",
        OTEL_BSP_SCHEDULE_DELAY="200",
        GATEWAY_COOLDOWN_AFTER="1000000",
    ) as rig:
        yield rig


def trace(low: str = SAMPLED) -> tuple[str, dict[str, str]]:
    """A trace id whose sampling is known, and the header of somebody who calls within it."""
    trace_id = secrets.token_hex(8) + low
    return trace_id, {"traceparent": f"00-{trace_id}-{'ab' * 8}-01"}


async def ask(rig: Rig, headers: dict[str, str], model: str, **fields: object) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": WROTE}], **fields}
    return (await rig.post(headers, json.dumps(body).encode())).headers["x-request-id"]


async def test_a_request_is_a_span_with_one_below_it_for_each_route_that_was_tried(
    traced: Rig, collector: Collector
) -> None:
    rig = traced
    said = await rig.provider.script("said", status=500, chunks=[f'{{"error": "{SAID}"}}'])
    model = rig.alias(said, "sim:words=4,prompt=9,first_ms=60,tag=traced")
    ada = rig.customer(models=[model])
    for stream in (False, True):
        trace_id, parent = trace()
        request_id = await ask(rig, ada.headers | parent, model, stream=stream, max_tokens=7)
        request, failed, served = collector.of(trace_id, count=3)
        assert (request.name, request.kind, request.parent_id) == (f"chat {model}", "SERVER", "ab" * 8)
        assert (failed.parent_id, served.parent_id) == (request.span_id, request.span_id)
        assert {failed.kind, served.kind} == {"CLIENT"}
        told = request.attributes
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.request.model"] == model
        assert told["gen_ai.request.max_tokens"] == 7
        assert told.get("gen_ai.request.stream", False) is stream
        assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (9, 4)
        assert told["http.response.status_code"] == 200
        assert told["gateway.request_id"] == request_id
        assert (request.failed, failed.failed, served.failed) == (False, True, False)
        assert failed.attributes["error.type"] == "500"
        assert failed.attributes["server.address"] == "127.0.0.1"
        assert failed.attributes["server.port"] == int(rig.provider.root.rpartition(":")[2])
        assert served.name == "chat sim:words=4,prompt=9,first_ms=60,tag=traced"
        assert served.attributes["gen_ai.provider.name"] == "fp"
        assert served.ended_ns - served.started_ns >= 60_000_000
        assert request.started_ns <= failed.started_ns <= failed.ended_ns <= served.started_ns
        assert served.ended_ns <= request.ended_ns
        assert request.service == "supertomorrow-gateway"
    assert {headers["x-collector-key"] for headers in collector.headers} == {"mine"}


async def test_what_fails_or_leaves_says_so(traced: Rig, collector: Collector) -> None:
    rig = traced
    broken, slow = rig.alias("sim:words=4,cut=2,tag=traced"), rig.alias("sim:words=40,gap_ms=50,tag=traced")
    ada = rig.customer(models=[broken, slow])
    trace_id, parent = trace()
    await ask(rig, ada.headers | parent, broken, stream=True)
    request, attempt = collector.of(trace_id, count=2)
    assert request.failed
    assert request.attributes["error.type"] == "upstream_unavailable"
    assert attempt.failed
    trace_id, parent = trace()
    await ask(rig, ada.headers | parent, WROTE)
    (request,) = collector.of(trace_id, count=1)
    assert (request.name, request.failed) == ("chat", False)
    assert request.attributes["http.response.status_code"] == 403
    trace_id, parent = trace()
    await leave(rig, type(ada)(ada.email, ada.key_id, ada.key, ada.headers | parent), slow, events=2)
    request, _ = collector.of(trace_id, count=2)
    assert request.attributes["gateway.outcome"] == "left"
    assert request.attributes["gen_ai.usage.output_tokens"] > 0


async def test_one_in_ten_is_sampled_and_the_caller_does_not_decide(traced: Rig, collector: Collector) -> None:
    rig = traced
    model = rig.alias("sim:words=1,tag=sampled")
    ada = rig.customer(models=[model])
    count = 300
    for _ in range(count // 50):
        await asyncio.gather(*(ask(rig, ada.headers, model) for _ in range(50)))
    unsampled, parent = trace(NOT_SAMPLED)
    await ask(rig, ada.headers | parent, model)
    last, parent = trace()
    await ask(rig, ada.headers | parent, model)
    # Spans are sent in their order.
    collector.of(last, count=2)
    spans = [span for span in collector.spans if span.name == f"chat {model}"]
    assert unsampled not in {span.trace_id for span in spans}
    ours = [span for span in spans if span.trace_id != last]
    # 30 are to be expected; the chance of a number outside is below one in a million.
    assert 8 <= len(ours) <= 62
    assert len({span.trace_id for span in ours}) == len(ours)


async def test_nobodys_words_are_sent_and_providers_hear_nothing_of_it(traced: Rig, collector: Collector) -> None:
    rig = traced
    said = await rig.provider.script(
        "tells", status=400, chunks=[f'{{"error": {{"message": "{SAID}", "code": "{SAID}"}}}}']
    )
    upstream = "sim:words=3,tag=heard"
    refused, model = rig.alias(said), rig.alias(upstream)
    ada = rig.customer(models=[refused, model])
    ids = []
    states = [f"vendor={WROTE}", f"{WROTE} as no list of members"]
    for alias in (refused, model):
        trace_id, parent = trace()
        ids.append(trace_id)
        await ask(rig, ada.headers | parent | {"tracestate": states.pop(), "baggage": f"who={WROTE}"}, alias)
        collector.of(trace_id, count=2)
    for canary in (WROTE, SAID, ada.key, ada.email, "canary-provider-credential"):
        assert canary.encode() not in collector.bytes
    log = rig.server.log.read_text()
    assert WROTE not in log
    assert SECRET not in log
    assert "OTEL_EXPORTER_OTLP_HEADERS" in log, "that it is left out is told"
    (call,) = await rig.provider.calls(upstream)
    heard = {name.lower() for name in call["headers"]}
    assert not heard & {"traceparent", "tracestate", "baggage"}


def test_a_server_without_the_variables_does_not_import_the_library() -> None:
    look = (
        "import sys, gateway.app, gateway.traces as t; print(t.open_traces(), 'opentelemetry.sdk.trace' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "False"]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "1"}, "^OTEL_BSP_MAX_QUEUE_SIZE: 1 is less than"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_SCHEDULE_DELAY": "5s"}, "^OTEL_BSP_SCHEDULE_DELAY: '5s'"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "foo"}, "^OTEL_TRACES_SAMPLER: 'foo'"),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_TRACES_SAMPLER": "traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "10%",
            },
            "^OTEL_TRACES_SAMPLER_ARG: '10%'",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line_that_names_it(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=says):
        open_traces()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_traces_unless_they_are_asked_for(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_traces() is None


@pytest.mark.drill
async def test_a_collector_that_is_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    with start_rig(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_SCHEDULE_DELAY="100") as rig:
        model = rig.alias("sim:words=1")
        ada = rig.customer(models=[model])
        for _ in range(5):
            assert (await rig.chat(ada, model)).status == 200
        assert rig.server.stop(within_s=15) == 0
        rig.start()
