"""Owns traces: a span for each sampled request and one for each route that was tried, sent to an OpenTelemetry collector.

There are none unless OpenTelemetry's own variables ask for them (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER), and
its library is imported only then. Names are those of its conventions for generative AI; what a model was asked or answered
is never among them. A caller's `traceparent` becomes the parent, without its `tracestate`, whose words are the caller's own;
providers are told nothing of it.

Spans are made when a request is over, from the numbers that the turn has anyway: one that is not sampled costs a comparison.
They are made as what the library calls readable, over from the start, and not begun and ended with its tracer: that costs
five times as much. In return what a tracer does has to be done here: the sampler is asked, ids are drawn, limits do not apply.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from models.errors import SetupError
from models.prices import credits_text

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext, SpanKind, TraceState

    from gateway.turn import Tried, Turn

_SERVICE = "supertomorrow-gateway"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_PROTOCOL = "http/protobuf"
_PARENT = "traceparent"
_QUEUE, _BATCH = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
_COUNTS = (_QUEUE, _BATCH, ("OTEL_BSP_SCHEDULE_DELAY", 5_000), ("OTEL_BSP_EXPORT_TIMEOUT", 30_000))
_RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
_SAMPLERS = ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *_RATIO_SAMPLERS)
_SENT_WITHIN_S = 3.0
_ALL = 2**64
log = structlog.get_logger()


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
    _check_values()
    try:
        return Traces()
    except ValueError as error:
        # It begins with the variable's name, mostly.
        raise SetupError(f"OTEL_…: {error}") from None
    except ImportError as error:
        raise SetupError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: traces need more packages ({error}); pip install -c constraints.txt -e '.[traces]'"
        ) from None


def _check_values() -> None:
    """What the library would not take, or would replace with its own default, saying so where nobody looks."""
    given = os.environ.get
    counts = {}
    for name, default in _COUNTS:
        value = given(name, str(default)).strip()
        if not value.isdecimal() or not int(value):
            raise SetupError(f"{name}: {value!r} is not a whole number above 0")
        counts[name] = int(value)
    if counts[_BATCH[0]] > counts[_QUEUE[0]]:
        raise SetupError(f"{_QUEUE[0]}: {counts[_QUEUE[0]]} is less than {_BATCH[0]}, {counts[_BATCH[0]]}; set both")
    sampler = given("OTEL_TRACES_SAMPLER", "always_on").strip().lower()
    if sampler not in _SAMPLERS:
        raise SetupError(f"OTEL_TRACES_SAMPLER: {sampler!r} is not known here; use one of {', '.join(_SAMPLERS)}")
    if sampler in _RATIO_SAMPLERS:
        _check_ratio(given("OTEL_TRACES_SAMPLER_ARG", "1"))
    if "OTEL_TRACES_SAMPLER" in os.environ:
        os.environ["OTEL_TRACES_SAMPLER"] = sampler


def _check_ratio(value: str) -> None:
    try:
        if 0 <= float(value) <= 1:
            return
    except ValueError:
        pass
    raise SetupError(f"OTEL_TRACES_SAMPLER_ARG: {value!r} is not a number from 0 to 1")


class Traces:
    def __init__(self) -> None:
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        from opentelemetry.util.re import parse_env_headers

        class OneResource(Resource):
            """The exporter looks it up for every span, and would write all of it as JSON for that each time."""

            def __hash__(self) -> int:
                return id(self)

        # It would quote what it does not understand of these variables, and they hold secrets.
        logging.getLogger(parse_env_headers.__module__).setLevel(logging.ERROR)
        for name in _HEADERS:
            given = [part for part in os.environ.get(name, "").split(",") if part.strip()]
            if len(parse_env_headers(",".join(given), liberal=True)) < len(given):
                log.warning(
                    "a header for the collector is left out: it is not name=value, or twice there", variable=name
                )
        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            os.environ.setdefault("OTEL_SERVICE_NAME", _SERVICE)
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler = provider.sampler
        # Of traces that begin here, what a ratio leaves out is known by a comparison; asking costs microseconds.
        self._mask, self._bound = TraceIdRatioBased.TRACE_ID_LIMIT, _ALL
        if os.environ.get("OTEL_TRACES_SAMPLER") in _RATIO_SAMPLERS:
            self._bound = TraceIdRatioBased.get_bound_for_rate(float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1")))
        self._resource = OneResource(provider.resource.attributes, provider.resource.schema_url)
        self._scope = InstrumentationScope("gateway")
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._none = Context()
        self._extract, self._current = TraceContextTextMapPropagator().extract, get_current_span
        # Spans that are over from the start: the library's own way, to begin and end each, costs five times as much.
        self._span, self._context, self._is_sampled = ReadableSpan, SpanContext, TraceFlags(TraceFlags.SAMPLED)
        self._server, self._client = SpanKind.SERVER, SpanKind.CLIENT
        self._status = {False: Status(StatusCode.UNSET), True: Status(StatusCode.ERROR)}

    def carried(self, headers: Mapping[str, str]) -> dict[str, str] | None:
        """What a caller says of the trace that its request belongs to."""
        parent = headers.get(_PARENT)
        return None if parent is None else {_PARENT: parent}

    def tell(self, turn: Turn) -> None:
        """Called when the request is over."""
        within, parent, trace_id = self._none, None, random.getrandbits(128) or 1
        if turn.carried is not None:
            within = self._extract(turn.carried, self._none)
            # What is no traceparent leaves none.
            parent = self._current(within).get_span_context() if within else None
        if parent is not None:
            trace_id = parent.trace_id
        elif trace_id & self._mask >= self._bound:
            return
        decided = self._sampler.should_sample(within, trace_id, "chat")
        if decided.decision.is_sampled():  # type: ignore[no-untyped-call]
            self._tell(turn, parent, trace_id, decided.trace_state)

    def close(self) -> None:
        """Send what is left, unless the collector does not take it within a moment."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(_SENT_WITHIN_S)

    def _tell(self, turn: Turn, parent: SpanContext | None, trace_id: int, state: TraceState | None) -> None:
        began_ns = turn.at_us * 1000

        def end(
            name: str,
            parent: SpanContext | None,
            kind: SpanKind,
            attributes: dict[str, Any],
            failed: bool,
            began_s: float,
            ended_s: float,
        ) -> SpanContext:
            context = self._context(trace_id, random.getrandbits(64) or 1, False, self._is_sampled, state)
            span = self._span(
                name,
                context,
                parent,
                self._resource,
                attributes,
                kind=kind,
                status=self._status[failed],
                start_time=began_ns + int(began_s * 1e9),
                end_time=began_ns + int(ended_s * 1e9),
                instrumentation_scope=self._scope,
            )
            self._processor.on_end(span)
            return context

        name = "chat" if turn.is_unknown else f"chat {turn.alias_name}"
        request = end(name, parent, self._server, _of_request(turn), turn.status >= 500, 0.0, turn.ended_s)
        for tried in turn.tried:
            began_s, ended_s = tried.began_at - turn.started, tried.ended_at - turn.started
            name = f"chat {tried.route.upstream_model}"
            end(name, request, self._client, _of_attempt(tried), bool(tried.error), began_s, ended_s)


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
