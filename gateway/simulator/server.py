"""The simulated provider as an HTTP server: its endpoints, and starting and stopping it."""

import asyncio
import contextlib
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from aiohttp import web

from gateway.simulator.answers import compose_answer
from gateway.simulator.asks import Ask, Refusal, decode_body, parse_ask
from gateway.simulator.control import DESK, Desk, add_control_routes
from gateway.simulator.exchange import Exchange, error_response
from gateway.simulator.options import parse_options
from gateway.simulator.scripts import replay_script

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MOST_REQUEST_BYTES = 256 * 2**20
BACKLOG = 4096
SHUTDOWN_S = 0.1
OPEN_FILES = 65_536


def create_simulator() -> web.Application:
    """The application; it notices departures at once only under a runner with `handler_cancellation=True`."""
    app = web.Application(middlewares=[_answer_errors], client_max_size=MOST_REQUEST_BYTES)
    app[DESK] = Desk()
    for prefix in ("/v1", ""):
        app.router.add_post(f"{prefix}/chat/completions", complete_chat)
        app.router.add_get(f"{prefix}/models", list_models)
    app.router.add_get("/healthz", tell_health)
    app.router.add_route("*", "/redirected", note_redirection)
    add_control_routes(app)
    return app


async def complete_chat(request: web.Request) -> web.StreamResponse:
    """One chat completion, behaving as its model's name says."""
    desk, raw = request.app[DESK], await request.read()
    model = ""
    try:
        body = decode_body(raw)
        model = str(body.get("model", "")) if isinstance(body, dict) else ""
        ask = parse_ask(body)
        if ask.model.startswith("script:"):
            return await _replay(request, desk, ask, raw)
        options = parse_options(ask.model).for_call(desk.take_turn(ask.model))
    except Refusal as refusal:
        call = desk.log.open(model, request.headers, raw)
        desk.log.finish(call, "failed")
        return error_response(refusal.status, refusal.message, param=refusal.param, code=refusal.code)
    call = desk.log.open(ask.model, request.headers, raw, kept=options.calls == "on")
    answer = compose_answer(ask, options, number=call.n, created=int(call.at))
    with _gate(desk, ask.model) as gate:
        exchange = Exchange(request, ask, options, answer, call, desk.log, gate)
        return await _notice_departure(exchange.run(), lambda: exchange.settle("left"))


async def list_models(_: web.Request) -> web.Response:
    models = [{"id": "sim", "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}]
    return web.json_response({"object": "list", "data": models})


async def tell_health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def note_redirection(request: web.Request) -> web.Response:
    """Where `redirect` points to; nobody should come here."""
    log = request.app[DESK].log
    log.finish(log.open("redirected", request.headers, await request.read()), "failed")
    return error_response(404, "A redirect was followed.", code="redirect_followed")


@dataclass(frozen=True)
class RunningSimulator:
    """A simulator that serves: `url` has the control surface, `base_url` is what a provider's record holds."""

    url: str
    runner: web.AppRunner

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def close(self) -> None:
        """Stop at once; calls that are still open are cancelled."""
        await self.runner.cleanup()


async def serve_simulator(host: str = "127.0.0.1", port: int = 0) -> RunningSimulator:
    """Serve inside the running event loop; port 0 picks a free one."""
    runner = web.AppRunner(
        create_simulator(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=75,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError:
        await runner.cleanup()
        raise
    shown = f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)
    return RunningSimulator(f"http://{shown}:{runner.addresses[0][1]}", runner)


def run_simulator(host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve until SIGTERM or SIGINT, having printed the address in one line."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    asyncio.run(_run_until_stopped(host, port))


async def _run_until_stopped(host: str, port: int) -> None:
    stopped = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stopped.set)
    simulator = await serve_simulator(host, port)
    print(f"simulated provider on {simulator.base_url}", flush=True)  # noqa: T201
    await stopped.wait()
    await simulator.close()


async def _replay(request: web.Request, desk: Desk, ask: Ask, raw: bytes) -> web.StreamResponse:
    name = ask.model.removeprefix("script:")
    if name not in desk.scripts:
        raise Refusal(f"There is no script '{name}'.", param="model", code="model_not_found", status=404)
    call = desk.log.open(ask.model, request.headers, raw)
    replaying = replay_script(desk.scripts[name], request, desk.log, call, streams=ask.stream)
    return await _notice_departure(replaying, lambda: desk.log.finish(call, "left"))


async def _notice_departure(answering: Awaitable[web.StreamResponse], note: Callable[[], None]) -> web.StreamResponse:
    """Note that the client left, which shows as the cancelling of the handler or as a write that fails."""
    try:
        return await answering
    except asyncio.CancelledError:
        note()
        raise
    except ConnectionError:
        note()
        return web.Response()


@contextlib.contextmanager
def _gate(desk: Desk, model: str) -> Iterator[asyncio.Event]:
    """The gate of one call; it is known to `release` for as long as the call lasts."""
    gate = asyncio.Event()
    desk.gates[model].add(gate)
    try:
        yield gate
    finally:
        desk.gates[model].discard(gate)
        if not desk.gates[model]:
            del desk.gates[model]


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refusals, unknown paths and wrong methods become OpenAI-shaped errors."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return error_response(refusal.status, refusal.message, param=refusal.param, code=refusal.code)
    except web.HTTPException as error:
        return error_response(error.status, error.reason, code="not_found" if error.status == 404 else None)
