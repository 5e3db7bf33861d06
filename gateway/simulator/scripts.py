"""Replies that a test uploads byte by byte, for model `script:NAME`: parsing them and replaying them."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.simulator.asks import Refusal
from gateway.simulator.call_log import Call, CallLog
from gateway.simulator.exchange import EVENT_STREAM, JSON, drop_connection, fall_silent, pause

ENDINGS = ("close", "abort", "hang")


@dataclass(frozen=True)
class Script:
    """A reply as it is to be sent: each piece after its delay, in one write of its own."""

    status: int
    headers: Mapping[str, str]
    pieces: tuple[tuple[int, bytes], ...]
    then: str


def parse_script(body: Any) -> Script:
    """Check an uploaded {status, headers, chunks: [{text|base64, after_ms}], then}."""
    if not isinstance(body, dict) or not body.keys() <= {"status", "headers", "chunks", "then"}:
        raise Refusal("A script is an object of status, headers, chunks and then.")
    then = body.get("then", "close")
    if then not in ENDINGS:
        raise Refusal(f"'then' is one of {', '.join(ENDINGS)}.", param="then")
    try:
        pieces = tuple((int(chunk.get("after_ms", 0)), _piece(chunk)) for chunk in body.get("chunks", []))
        return Script(int(body.get("status", 200)), dict(body.get("headers", {})), pieces, then)
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Refusal(f"The script cannot be read: {error!r}") from error


async def replay_script(
    script: Script, request: web.Request, log: CallLog, call: Call, *, streams: bool
) -> web.StreamResponse:
    """Send the script; each piece that was sent counts as an event in the log."""
    headers = {name: value for name, value in script.headers.items() if name.lower() != "transfer-encoding"}
    response = web.StreamResponse(status=script.status, headers=headers)
    if "Content-Type" not in response.headers:
        response.headers["Content-Type"] = EVENT_STREAM if streams else JSON
    await response.prepare(request)
    for after_ms, piece in script.pieces:
        await pause(after_ms)
        await response.write(piece)
        call.events_sent += 1
    if script.then == "hang":
        await fall_silent()
    if script.then == "abort":
        log.finish(call, "cut")
        drop_connection(request, reset=False)
        return response
    await response.write_eof()
    log.finish(call, "served" if script.status < 300 else "failed")
    return response


def _piece(chunk: Mapping[str, str]) -> bytes:
    return base64.b64decode(chunk["base64"], validate=True) if "base64" in chunk else chunk["text"].encode()
