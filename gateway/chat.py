"""Owns one chat completion, from the bearer key to the settled charge. `complete` reads as the path of a request.

An answer that arrived whole is charged exactly once; anything less of the provider's making is free. The charge is
committed before the client gets the last byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import aiohttp
from sanic import Request
from sanic.response import HTTPResponse

from gateway.answers import Answer, NotAnAnswer, read_answer
from gateway.asks import check_encoding, read_ask
from gateway.catalog import Route
from gateway.client import ClientStream
from gateway.drain import drain
from gateway.errors import INTERNAL_MESSAGE, error_response, row_of
from gateway.gateway import Gateway, log
from gateway.relay import StreamBroken, StreamRelay
from gateway.reply import Reply, cors_lines
from gateway.routing import MOST_ATTEMPTS, plan, unavailable
from gateway.sse import EventTooLarge
from gateway.transport import read_some
from gateway.turn import FAILED, LEFT, Turn
from gateway.upstream import AttemptFailed, fault_text
from models.errors import DomainError, LedgerUnavailable, LimitExceeded, UpstreamRejected, UpstreamUnavailable
from models.ids import SECOND_US
from models.prices import credits_text

T = TypeVar("T")
STREAM_FAULTS = (StreamBroken, EventTooLarge, TimeoutError, aiohttp.ClientError)
# A packet of so many bytes has several events: its provider is quicker than this worker, for the moment.
_QUICK_BYTES = 1024
_GATHERING_TURNS = 4


async def complete(request: Request) -> HTTPResponse | None:
    """`POST /v1/chat/completions`. None when the answer was streamed."""
    gateway: Gateway = request.app.ctx.gateway
    turn = Turn(gateway)
    gateway.watch.begun(turn, request.headers)
    gateway.running.add(turn)
    try:
        gateway.check_admits()
        caller = turn.caller = await gateway.keys.authenticate(request.headers.get("authorization"), turn.at_us)
        check_encoding(request.headers.get("content-encoding"))
        ask = turn.ask = read_ask(request.body)
        turn.alias, turn.price = gateway.catalog.snapshot.find(ask.model, caller.scope, turn.at_us)
        turn.admission = await gateway.limiter.admit(caller.limits, turn.token_estimate)
        gateway.keys.used[caller.key_id] = turn.at_us
        routes = plan(turn.alias, gateway.health)
        await turn.hold()
        gateway.check_open()
        if ask.stream:
            return await _answer_streamed(turn, routes, request)
        return await _answer_whole(turn, routes, request)
    except DomainError as error:
        turn.give_back()
        turn.release(FAILED)
        return _refusal(turn, error)
    except asyncio.CancelledError:
        _client_left(turn)
        raise
    except Exception:
        log.exception("a chat completion failed by our own fault", request_id=turn.request_id)
        turn.give_back()
        turn.release(FAILED)
        return _refusal(turn, DomainError(INTERNAL_MESSAGE))
    finally:
        turn.close()
        gateway.running.discard(turn)
        gateway.ended()


# ── whole answers ─────────────────────────────────────────────────────────────────────────────────────────────────


async def _answer_whole(turn: Turn, routes: Sequence[Route], request: Request) -> HTTPResponse:
    async def attempt(route: Route) -> Answer:
        response = await turn.gateway.upstream.open(route, turn.upstream_body(route), stream=False)
        turn.first_byte()
        body = await turn.gateway.upstream.read(response)
        turn.provider_done()
        try:
            return read_answer(body, turn.alias.name)
        except NotAnAnswer as error:
            raise AttemptFailed(str(error), status=200) from None

    answer = await _walk(turn, routes, attempt)
    meters = answer.meters or await turn.estimate(answer.text())
    settled = await turn.capture(meters, estimated=answer.meters is None)
    turn.answered(200)
    lines = f"{turn.lines}{cors_lines(request)}x-credits-charged: {credits_text(settled.charged_nano)}\r\n"
    return Reply(answer.body, 200, lines, "application/json")


# ── streamed answers ──────────────────────────────────────────────────────────────────────────────────────────────


async def _answer_streamed(turn: Turn, routes: Sequence[Route], request: Request) -> HTTPResponse | None:
    gateway = turn.gateway
    client = ClientStream(request, turn.lines + cors_lines(request), gateway.settings.write_timeout_s)
    gateway.streams.add(client)
    upstream: _Opened | None = None
    try:
        upstream = await _walk(turn, routes, lambda route: _open_stream(turn, route, client))
        await _relay(turn, upstream, client)
    except asyncio.CancelledError:
        if client.interrupted:
            if upstream is not None:
                turn.end_attempt(200, error="interrupted")
            turn.release(FAILED)
            error = unavailable(turn.alias.name)
            turn.answered(row_of(error).status, row_of(error).code)
            await client.fail(error)
            return None
        if upstream is not None:
            _take_over(turn, upstream)
        raise
    except Exception as error:
        if not client.opened:
            raise
        # The status is gone; the error goes in band, and costs nothing all the same.
        turn.give_back()
        turn.release(FAILED)
        if not isinstance(error, DomainError):
            log.exception("a stream failed by our own fault", request_id=turn.request_id)
            error = DomainError(INTERNAL_MESSAGE)
        turn.answered(row_of(error).status, row_of(error).code)
        await client.fail(error)
    finally:
        gateway.streams.discard(client)
        client.close()
        if upstream is not None and not upstream.handed_over:
            # Read to its end, its connection serves again; otherwise this closes it.
            upstream.response.release()
    return None


class _Opened:
    """A provider's stream from which something has come, and what came first."""

    def __init__(self, response: aiohttp.ClientResponse, relay: StreamRelay, first: bytes) -> None:
        self.response = response
        self.relay = relay
        self.first = first
        self.handed_over = False


async def _open_stream(turn: Turn, route: Route, client: ClientStream) -> _Opened:
    """Open a stream and wait until it says something; until then another route can still take its place."""
    response = await turn.gateway.upstream.open(route, turn.upstream_body(route), stream=True)
    turn.first_byte()
    try:
        client.open_soon()
        ask, created_s = turn.ask, turn.at_us // SECOND_US
        relay = StreamRelay(turn.alias.name, turn.request_id, created_s, wants_usage=ask.wants_usage, choices=ask.n)
        while chunk := await read_some(response.content):
            first = relay.feed(chunk)
            if first:
                return _Opened(response, relay, first)
            if relay.ended:
                break
        first = relay.close()
        if first:
            return _Opened(response, relay, first)
        raise AttemptFailed("the stream ended before it began", status=200)
    except STREAM_FAULTS as error:
        client.open_later()
        response.close()
        raise AttemptFailed(_stream_fault(error), status=200) from None
    except BaseException:
        response.close()
        raise


async def _relay(turn: Turn, upstream: _Opened, client: ClientStream) -> None:
    """Event by event to the client; then settle; then the end of the stream."""
    relay = upstream.relay
    await client.send(upstream.first)
    try:
        if not upstream.relay.ended:
            while chunk := await read_some(upstream.response.content):
                out = relay.feed(chunk)
                if out:
                    await client.send(out)
                if relay.ended:
                    break
                if len(chunk) >= _QUICK_BYTES:
                    # What comes in the next turns of the loop is passed on as one, which is cheaper; with nothing else
                    # to do, the turns take microseconds.
                    for _ in range(_GATHERING_TURNS):
                        await asyncio.sleep(0)
        rest = relay.close()
        if rest:
            await client.send(rest)
    except STREAM_FAULTS as error:
        # What was finished before the connection broke is whole all the same.
        if not relay.is_whole:
            raise _stream_failed(turn, error) from None
    turn.provider_done()
    if not relay.is_whole:
        raise _stream_failed(turn, StreamBroken("it ended before it was finished"))
    turn.gateway.health.succeeded(turn.current_route.id)
    counted = relay.meters
    meters = counted or await turn.estimate(bytes(relay.text))
    client.settling = True
    settled = await turn.capture(meters, estimated=counted is None)
    turn.answered(200)
    await client.finish(relay.tail(meters, credits_text(settled.charged_nano)))


def _stream_failed(turn: Turn, error: Exception) -> UpstreamUnavailable:
    turn.end_attempt(200, error=type(error).__name__)
    turn.gateway.health.failed(turn.current_route.id)
    log.warning("a stream broke", request_id=turn.request_id, route=turn.current_route.id, reason=_stream_fault(error))
    return UpstreamUnavailable("The model's provider broke off this answer. It was not charged; please try again.")


def _stream_fault(error: Exception) -> str:
    return str(error) if isinstance(error, StreamBroken) else fault_text(error)


# ── the walk: one route after another, until one answers ──────────────────────────────────────────────────────────


async def _walk(turn: Turn, routes: Sequence[Route], attempt: Callable[[Route], Awaitable[T]]) -> T:
    """The first answer. Raises LimitExceeded when limits alone were in the way, else UpstreamUnavailable."""
    gateway, left = turn.gateway, MOST_ATTEMPTS
    may_retry = True
    limited: LimitExceeded | None = None
    for route in routes:
        if left == 0 or not gateway.health.enter(route.id):
            continue
        try:
            turn.route_admission = await gateway.limiter.admit(route.limits, turn.token_estimate)
        except LimitExceeded as error:
            gateway.health.abandoned(route.id)
            limited = error
            continue
        except BaseException:
            gateway.health.abandoned(route.id)
            raise
        while left:
            gateway.check_open()
            left -= 1
            turn.begin_attempt(route)
            try:
                answer = await attempt(route)
            except AttemptFailed as failure:
                # What began was no answer.
                turn.first_byte_s = 0.0
                turn.end_attempt(failure.status, error=failure.kind)
                log.info("an attempt failed", request_id=turn.request_id, route=route.id, reason=str(failure))
                if failure.dead and may_retry and left:
                    may_retry = False
                    continue
                gateway.health.failed(route.id, failure.retry_after_s)
                gateway.limiter.refund(turn.route_admission)
                break
            except UpstreamRejected as rejection:
                turn.end_attempt(rejection.status, error=str(rejection.status))
                gateway.health.succeeded(route.id)
                raise
            except BaseException:
                turn.end_attempt(0, error="cancelled")
                gateway.health.abandoned(route.id)
                raise
            if turn.ask.stream:
                # It has begun, which ends a probe; whether it was a success is known at its end.
                gateway.health.abandoned(route.id)
            else:
                gateway.health.succeeded(route.id)
            return answer
    if limited is not None and not turn.attempts:
        raise limited
    raise unavailable(turn.alias.name)


# ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _refusal(turn: Turn, error: DomainError) -> HTTPResponse:
    response = error_response(error, dict(line.split(": ", 1) for line in turn.lines.splitlines()))
    turn.answered(response.status, row_of(error).code)
    if isinstance(error, LedgerUnavailable) and turn.gateway.stopping:
        response.headers["connection"] = "close"
    return response


def _client_left(turn: Turn) -> None:
    """Nothing was delivered, nothing is charged; the estimate stays counted against the limits of who walked away."""
    if turn.placed and not turn.settled and not turn.handed_over:
        turn.gateway.metrics.count_left(turn.caller.account_id, "before output")
        turn.first_byte_s = 0.0
        turn.release(LEFT)


def _take_over(turn: Turn, upstream: _Opened) -> None:
    """The client left while it was being answered: read on in the background, and charge what was used."""
    if turn.settled:
        return
    upstream.handed_over = True
    drain(turn, upstream.response, upstream.relay)
