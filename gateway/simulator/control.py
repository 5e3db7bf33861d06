"""The control surface for tests: reading and awaiting the call log, releasing gates, uploading scripts."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiohttp import web

from gateway.simulator.answers import dump
from gateway.simulator.asks import Refusal, decode_body
from gateway.simulator.call_log import Call, CallLog
from gateway.simulator.exchange import error_document
from gateway.simulator.scripts import Script, parse_script


@dataclass
class Desk:
    """What one simulator remembers; everything else in it is made for one call."""

    log: CallLog = field(default_factory=CallLog)
    scripts: dict[str, Script] = field(default_factory=dict)
    gates: dict[str, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    turns: Counter[str] = field(default_factory=Counter)

    def take_turn(self, model: str) -> int:
        """How many calls of this exact name came earlier."""
        self.turns[model] += 1
        return self.turns[model] - 1

    def release(self, model: str | None) -> int:
        """Open the gates of all calls that have come so far, of one model or of all."""
        gates = [gate for name, held in self.gates.items() for gate in held if model in (None, name)]
        for gate in gates:
            gate.set()
        return len(gates)


DESK = web.AppKey("DESK", Desk)


def add_control_routes(app: web.Application) -> None:
    app.router.add_get("/calls", list_calls)
    app.router.add_get("/calls/wait", await_calls)
    app.router.add_get("/calls/count", count_calls)
    app.router.add_delete("/calls", clear_calls)
    app.router.add_post("/release", release_calls)
    app.router.add_put("/scripts/{name}", upload_script)


async def list_calls(request: web.Request) -> web.Response:
    """GET /calls?model=NAME&state=STATE: the log, oldest first."""
    found = request.app[DESK].log.find(request.query.get("model"), request.query.get("state"))
    return _calls_response(found)


async def await_calls(request: web.Request) -> web.Response:
    """GET /calls/wait?model=NAME&state=STATE&count=1&timeout=5: as /calls, once there are so many; 408 otherwise."""
    model, state = request.query.get("model"), request.query.get("state")
    try:
        count, timeout_s = int(request.query.get("count", "1")), float(request.query.get("timeout", "5"))
    except ValueError as error:
        raise Refusal(f"count and timeout are numbers: {error}") from error
    log = request.app[DESK].log
    found = await log.wait(model, state, count=count, timeout_s=timeout_s)
    if len(found) >= count:
        return _calls_response(found)
    states = dict(Counter(call.state for call in log.find(model)))
    message = f"{len(found)} of {count} calls after {timeout_s:g} s; the states of the model's calls: {states}"
    return web.json_response(error_document(message, kind="timeout", code="timeout"), status=408)


async def count_calls(request: web.Request) -> web.Response:
    """GET /calls/count?model=NAME&state=STATE: how many have ended so, however long ago."""
    model, state = request.query.get("model", ""), request.query.get("state", "")
    return web.json_response({"count": request.app[DESK].log.count(model, state)})


async def clear_calls(request: web.Request) -> web.Response:
    """DELETE /calls?model=NAME: forgets the calls, and the turns that flaky and flap count."""
    desk, model = request.app[DESK], request.query.get("model")
    desk.log.clear(model)
    for name in [name for name in desk.turns if model in (None, name)]:
        del desk.turns[name]
    return web.Response(status=204)


async def release_calls(request: web.Request) -> web.Response:
    """POST /release?model=NAME: lets the gated calls that have come so far go on."""
    return web.json_response({"released": request.app[DESK].release(request.query.get("model"))})


async def upload_script(request: web.Request) -> web.Response:
    """PUT /scripts/NAME: the reply for model `script:NAME`."""
    request.app[DESK].scripts[request.match_info["name"]] = parse_script(decode_body(await request.read()))
    return web.Response(status=204)


def _calls_response(calls: Iterable[Call]) -> web.Response:
    return web.Response(body=dump([call.as_json() for call in calls]), content_type="application/json")
