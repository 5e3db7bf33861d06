"""Owns the HTTP server's assembly: settings in, a Sanic application out. The only place that builds things."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import structlog
from sanic import Request, Sanic
from sanic.exceptions import RequestCancelled, SanicException
from sanic.handlers import ErrorHandler
from sanic.response import HTTPResponse

from gateway import dashboard, docs, listing, payments
from gateway.chat import complete
from gateway.dashboard.pages import nowhere
from gateway.dashboard.site import Site
from gateway.errors import CORS_HEADERS, INTERNAL_MESSAGE, plain_error
from gateway.gateway import Gateway
from gateway.settings import Settings
from gateway.strictness import StrictRequest
from models.ids import new_request_id, now_us

_KEEP_ALIVE_S = 75
_HEADER_TIMEOUT_S = 60
_FORWARDING = ("forwarded", "x-forwarded-", "x-real-ip", "via")
_MESSAGES = {
    404: "There is no such endpoint. This service has POST /v1/chat/completions and GET /v1/models; set your client to use "
    "chat completions, with a base URL that ends in /v1.",
    405: "This endpoint does not answer to this method.",
    413: "The request body is larger than this service takes ({limit} MiB). Send less text or smaller images.",
}
log = structlog.get_logger()
App = Sanic[Any, Any]


def create_app(settings: Settings, *, name: str = "supertomorrow") -> App:
    """An application whose parts are built when its worker starts. Raises SetupError then, if anything is not ready."""
    app = Sanic(
        name,
        error_handler=Errors(settings),
        configure_logging=False,
        dumps=msgspec.json.encode,
        request_class=StrictRequest,
    )
    gateway = app.ctx.gateway = Gateway(settings)
    app.ctx.site = site = Site(settings)
    config = app.config
    config.ACCESS_LOG = False
    config.REQUEST_MAX_SIZE = settings.body_max_mib * 1024 * 1024
    config.REQUEST_TIMEOUT = _HEADER_TIMEOUT_S
    # Sanic's own response timeout cuts silences without an error event. Ours are per purpose, and shorter than this.
    config.RESPONSE_TIMEOUT = 24 * 3600
    config.KEEP_ALIVE_TIMEOUT = _KEEP_ALIVE_S
    # Running requests are waited for before this begins; what is left are idle connections.
    config.GRACEFUL_SHUTDOWN_TIMEOUT = 2.0

    @app.before_server_start
    async def start(_app: App) -> None:
        site.warm_up()
        await gateway.start()

    @app.before_server_stop
    async def stop(_app: App) -> None:
        await gateway.stop()

    app.add_route(complete, "/v1/chat/completions", methods=["POST"])
    app.add_route(health, "/healthz", methods=["GET", "HEAD"])
    app.add_route(ready, "/readyz", methods=["GET", "HEAD"])
    app.add_route(metrics, "/metrics", methods=["GET"])
    app.blueprint(listing.blueprint())
    app.blueprint(docs.blueprint(settings.brand))
    app.blueprint(site.blueprint())
    if settings.stripe_secret_key is not None:
        app.blueprint(payments.blueprint())
    for pages in dashboard.PAGES:
        app.blueprint(pages.blueprint())
    return app


def respond(body: bytes, *, status: int = 200, content_type: str = "application/json") -> HTTPResponse:
    return HTTPResponse(body, status, {"x-request-id": new_request_id(now_us())}, content_type)


def preflight(headers: dict[str, str]) -> HTTPResponse:
    """Browsers ask before they send; any origin may, for the key is what decides."""
    headers = {
        **headers,
        "access-control-allow-methods": "GET, POST, OPTIONS",
        "access-control-allow-headers": "*, authorization",
        "access-control-max-age": "86400",
    }
    return HTTPResponse(None, 204, headers)


async def health(_request: Request) -> HTTPResponse:
    """The process is up."""
    return respond(b'{"status":"ok"}')


async def ready(request: Request) -> HTTPResponse:
    """The database answers and new requests are admitted."""
    gateway: Gateway = request.app.ctx.gateway
    if gateway.stopping:
        return respond(b'{"status":"stopping"}', status=503)
    try:
        await gateway.database.rows("SELECT 1")
    except Exception as error:
        log.warning("not ready", error=repr(error))
        return respond(b'{"status":"database unavailable"}', status=503)
    if not (gateway.lease.is_fresh and gateway.catalog.is_fresh and gateway.billing.is_open):
        return respond(b'{"status":"database unavailable"}', status=503)
    # Without Redis this worker admits its share of the limits, so it serves on; whoever watches should know.
    return respond(b'{"status":"ready","limiter":"%s"}' % gateway.limiter.state.encode())


async def metrics(request: Request) -> HTTPResponse:
    """Prometheus text, for this machine and the networks of `GATEWAY_METRICS_ALLOW`; never through a proxy."""
    gateway: Gateway = request.app.ctx.gateway
    if any(name.startswith(_FORWARDING) for name in request.headers) or not _may_read_metrics(
        request, gateway.settings
    ):
        return plain_error(404, _MESSAGES[404], {"x-request-id": new_request_id(now_us())})
    return respond(gateway.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _may_read_metrics(request: Request, settings: Settings) -> bool:
    try:
        address = ipaddress.ip_address(request.ip)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in settings.metrics_allow)


def _is_for_people(request: Request) -> bool:
    """Whether a browser wants to show the answer; programs do not ask for pages, and the API has none."""
    is_page = request.method in ("GET", "HEAD") and not request.path.startswith("/v1/")
    return is_page and "text/html" in request.headers.get("accept", "")


class Errors(ErrorHandler):
    """Everything that Sanic itself refuses, in our shape; our own bugs without any detail."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._limit = settings.body_max_mib

    def default(self, request: Request, exception: Exception) -> Any:
        """A response, or one to be awaited where the answer is a page."""
        answer = self._answer(request, exception)
        if isinstance(answer, HTTPResponse) and answer.status >= 400 and not isinstance(exception, RequestCancelled):
            watch = request.app.ctx.gateway.watch
            watch.refused(answer.headers["x-request-id"], answer.status, api=request.path.startswith("/v1/"))
        return answer

    def _answer(self, request: Request, exception: Exception) -> Any:
        headers = {"x-request-id": new_request_id(now_us())}
        if request.path.startswith("/v1/"):
            headers |= CORS_HEADERS
        if isinstance(exception, RequestCancelled):
            # The client is gone; nobody reads this.
            return plain_error(400, "The request was cancelled.", headers)
        if isinstance(exception, SanicException) and exception.status_code < 500:
            status = exception.status_code
            if request.method == "OPTIONS" and "access-control-allow-origin" in headers:
                # No endpoint answers to this method: here every one of them does, and so do those that do not exist.
                return preflight(headers)
            if status == 404 and _is_for_people(request):
                return nowhere(request)
            # Sanic's own text may quote the request, braces and all.
            message = _MESSAGES[status].format(limit=self._limit) if status in _MESSAGES else str(exception)
            extra = {k.lower(): v for k, v in (exception.headers or {}).items() if k.lower() == "allow"}
            return plain_error(status, message, headers | extra)
        if isinstance(exception, SanicException) and exception.status_code == 503:
            return plain_error(503, "The server is busy or shutting down; please try again.", headers)
        # Not the path itself: in some pages' addresses stands a secret.
        log.error("a request failed by our own fault", path=request.uri_template, exc_info=exception, **headers)
        return plain_error(500, INTERNAL_MESSAGE, headers)

    @staticmethod
    def log(request: Request, exception: Exception) -> None:
        """Logged above, once and without a traceback for what callers get wrong."""
