"""Owns streams whose client left after output began: read on for a bounded time, then charged for what was used."""

from __future__ import annotations

import asyncio

import aiohttp

from gateway.gateway import log
from gateway.relay import StreamBroken, StreamRelay
from gateway.sse import EventTooLarge
from gateway.transport import read_some
from gateway.turn import FAILED, LEFT, Turn


def drain(turn: Turn, response: aiohttp.ClientResponse, relay: StreamRelay) -> None:
    """Take a turn over from its handler. It keeps its place in the concurrency limits until it is settled."""
    gateway = turn.gateway
    turn.handed_over = True
    bound_s = gateway.settings.drain_s if len(gateway.drains) < gateway.settings.drain_max else 0.0
    task = asyncio.create_task(_drain(turn, response, relay, bound_s))
    gateway.drains.add(task)
    task.add_done_callback(gateway.drained)
    gateway.metrics.count_left(turn.caller.account_id, "after output")


async def _drain(turn: Turn, response: aiohttp.ClientResponse, relay: StreamRelay, bound_s: float) -> None:
    try:
        broken = await _read_on(response, relay, bound_s)
        turn.handed_over = False
        if broken and not relay.is_whole:
            # The provider broke off: that is never charged, whoever was listening.
            turn.gateway.health.failed(turn.current_route.id)
            turn.end_attempt(200, error="StreamBroken")
            turn.give_back()
            turn.release(FAILED)
            return
        if relay.is_whole:
            turn.gateway.health.succeeded(turn.current_route.id)
        counted = relay.meters if relay.is_whole else None
        meters = counted or await turn.estimate(bytes(relay.text))
        await turn.capture(meters, estimated=counted is None, outcome=LEFT)
    except asyncio.CancelledError:
        if not turn.settled:
            log.warning("a stream without client was cut by our shutdown", request_id=turn.request_id)
    except Exception as error:
        log.error("settling a stream without client failed", request_id=turn.request_id, error=repr(error))
    finally:
        response.close()
        turn.handed_over = False
        turn.release(FAILED)
        turn.close()


async def _read_on(response: aiohttp.ClientResponse, relay: StreamRelay, bound_s: float) -> bool:
    """Whether the provider broke off. Within the bound or not, what came is in the relay."""
    try:
        async with asyncio.timeout(bound_s) as bound:
            while chunk := await read_some(response.content):
                relay.feed(chunk)
                if relay.ended:
                    break
            relay.close()
        return not relay.is_whole
    except TimeoutError:
        return not bound.expired()
    except (StreamBroken, EventTooLarge, aiohttp.ClientError):
        return True
