"""Owns a scripted OpenTelemetry collector: it takes spans by OTLP over real HTTP, and hands them to a test."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    failed: bool
    started_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    service: str


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bytes = b""
        self.headers: list[dict[str, str]] = []
        self._came = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, dict(self.headers.items()), body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.bytes += body
            self.headers.append(headers)
            for resource in request.resource_spans:
                service = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_read(span, service) for span in scope.spans]
            self._came.notify_all()

    def of(self, trace_id: str, *, count: int, within_s: float = 20) -> list[Span]:
        """The spans of a trace, by their start; fails unless there are so many soon."""
        deadline = time.monotonic() + within_s
        with self._came:
            while len(found := [span for span in self.spans if span.trace_id == trace_id]) < count:
                assert self._came.wait(deadline - time.monotonic()), f"{len(found)} spans of {trace_id}, not {count}"
        return sorted(found, key=lambda span: (span.started_ns, span.kind != "SERVER"))


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector._server.shutdown()
        collector._server.server_close()
        thread.join()


def _read(span: Any, service: str) -> Span:
    attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
    kind = span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
    return Span(
        *(span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), kind, span.status.code == 2),
        *(span.start_time_unix_nano, span.end_time_unix_nano, attributes, service),
    )
