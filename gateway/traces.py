"""Owns traces: a span for each sampled request and one for each route that was tried, sent to an OpenTelemetry collector.

There are none unless OpenTelemetry's own variables ask for them (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER), and
its library is imported only then. Names are those of its conventions for generative AI; what a model was asked or answered
is never among them. A caller's `traceparent` becomes the parent; providers are told nothing of it.

Spans are made when a request is over, from the numbers that the turn has anyway: one that is not sampled costs a comparison.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.errors import SetupError
from models.prices import credits_text

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from gateway.turn import Tried, Turn

_SERVICE = "supertomorrow-gateway"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_CARRIED = ("traceparent", "tracestate")
_SENT_WITHIN_S = 3.0


def open_traces() -> Traces | None:
    """None unless the variables ask for traces. Raises SetupError for what they ask and is not to be had."""
    for name in [name for name, value in os.environ.items() if name.startswith("OTEL_") and not value.strip()]:
        del os.environ[name]  # Empty is unset, as for all other settings.
    given = os.environ.get
    default = "otlp" if any(map(given, _ENDPOINTS)) else "none"
    exporter = given("OTEL_TRACES_EXPORTER", default).strip()
    if exporter == "none" or given("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter != "otlp":
        raise SetupError(f"OTEL_TRACES_EXPORTER: {exporter!r} is not known here; use otlp, or none")
    for name in _PROTOCOLS:
        if given(name, _PROTOCOL) != _PROTOCOL:
            raise SetupError(f"{name}: {given(name)!r} is not known here; use {_PROTOCOL}, mostly on port 4318")
    try:
        return Traces()
    except ImportError as error:
        raise SetupError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: traces need more packages ({error}); pip install -c constraints.txt -e '.[traces]'"
        ) from None


class Traces:
    def __init__(self) -> None:
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Ids(RandomIdGenerator):
            """A new trace gets the id by which it was sampled."""

            trace_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

        class OneResource(Resource):
            """The exporter looks it up for every span, and would write all of it as JSON for that each time."""

            def __hash__(self) -> int:
                return id(self)

        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            os.environ.setdefault("OTEL_SERVICE_NAME", _SERVICE)
        self._ids = Ids()
        resource = Resource.create()
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._provider = TracerProvider(
            # Asked before, with the same result.
            sampler=ALWAYS_ON,
            resource=OneResource(resource.attributes, resource.schema_url),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("gateway")
        self._none = Context()
        self._extract = TraceContextTextMapPropagator().extract
        self._server, self._client = SpanKind.SERVER, SpanKind.CLIENT
        self._failed = Status(StatusCode.ERROR)
        self._within = set_span_in_context

    def carried(self, headers: Mapping[str, str]) -> dict[str, str] | None:
        """What a caller says of the trace that its request belongs to."""
        if "traceparent" not in headers:
            return None
        return {name: headers[name] for name in _CARRIED if name in headers}

    def tell(self, turn: Turn) -> None:
        """Called when the request is over."""
        parent = self._extract(turn.carried, self._none) if turn.carried else self._none
        if parent:
            trace_id = _trace_id(parent)
        else:
            # What is no traceparent leaves no parent.
            trace_id = self._ids.trace_id = random.getrandbits(128) or 1
        decision = self._sampler.should_sample(parent, trace_id, "chat").decision
        if decision.is_sampled():  # type: ignore[no-untyped-call]
            self._make_spans(turn, parent)

    def close(self) -> None:
        """Send what is left, unless the collector does not take it within a moment."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(_SENT_WITHIN_S)

    def _make_spans(self, turn: Turn, parent: Context) -> None:
        began_ns = turn.at_us * 1000
        name = "chat" if turn.is_unknown else f"chat {turn.alias_name}"
        span = self._tracer.start_span(name, parent, self._server, _of_request(turn), start_time=began_ns)
        if turn.status >= 500:
            span.set_status(self._failed)
        within = self._within(span, self._none)
        for tried in turn.tried:
            start_ns, end_ns = (began_ns + int((at - turn.started) * 1e9) for at in (tried.began_at, tried.ended_at))
            attempt = self._tracer.start_span(
                f"chat {tried.route.upstream_model}", within, self._client, _of_attempt(tried), start_time=start_ns
            )
            if tried.error:
                attempt.set_status(self._failed)
            attempt.end(end_ns)
        span.end(began_ns + int(turn.ended_s * 1e9))


def _trace_id(parent: Context) -> int:
    from opentelemetry.trace import get_current_span

    return int(get_current_span(parent).get_span_context().trace_id)


def _of_request(turn: Turn) -> dict[str, Any]:
    """What goes without saying is left out: most of what a span costs are its attributes."""
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _SERVICE,
        "http.response.status_code": turn.status,
        "gateway.request_id": turn.request_id,
        "gateway.outcome": turn.outcome,
        "gateway.credits": credits_text(turn.charged_nano),
    }
    ask, meters = getattr(turn, "ask", None), turn.meters
    if not turn.is_unknown:
        told["gen_ai.request.model"] = turn.alias_name
    if ask is not None:
        if ask.stream:
            told["gen_ai.request.stream"] = True
        if ask.max_tokens is not None:
            told["gen_ai.request.max_tokens"] = ask.max_tokens
        if ask.n != 1:
            told["gen_ai.request.choice.count"] = ask.n
    if meters.total:
        told["gen_ai.usage.input_tokens"] = meters.input
        told["gen_ai.usage.output_tokens"] = meters.output
    if meters.cached or meters.written:
        told["gen_ai.usage.cache_read.input_tokens"] = meters.cached
        told["gen_ai.usage.cache_creation.input_tokens"] = meters.written
    if turn.estimated:
        told["gateway.estimated"] = True
    if turn.first_byte_s:
        told["gen_ai.response.time_to_first_chunk"] = turn.first_byte_s
    if turn.error:
        told["error.type"] = turn.error
    return told


def _of_attempt(tried: Tried) -> dict[str, Any]:
    route = tried.route
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": route.provider,
        "gen_ai.request.model": route.upstream_model,
        "server.address": route.url.host or "",
        "server.port": route.url.port or 0,
        "gateway.route": route.id,
    }
    if tried.status not in (0, 200):
        told["http.response.status_code"] = tried.status
    if tried.error:
        told["error.type"] = tried.error
    return told
