"""One call being answered: when its bytes are sent, where it goes wrong, and what the log learns of it.

What the bytes are belongs to `answers` and `framing`; the endpoints to `server`.
"""

import asyncio
import os
import socket
import struct
from dataclasses import dataclass

from aiohttp import web

from gateway.simulator.answers import Answer, Event, build_document, dump, stream_events
from gateway.simulator.asks import Ask
from gateway.simulator.call_log import Call, CallLog, State
from gateway.simulator.framing import Framer, compress
from gateway.simulator.options import Options
from gateway.simulator.usage import count_tokens

ENDLESS_PIECE = b"x" * 65_536
MISSING_BYTES = 100
BEFORE_CUT_MS = 20
SPLIT_MS = 5
EVENT_STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


@dataclass
class Exchange:
    """The request, what it asks for, and its entry in the log."""

    request: web.Request
    ask: Ask
    options: Options
    answer: Answer
    call: Call
    log: CallLog
    gate: asyncio.Event

    async def run(self) -> web.StreamResponse:
        options, streams = self.options, self.ask.stream
        await pause(options.first_ms)
        if options.silent:
            await fall_silent()
        if options.reset and options.cut is None:
            return self._drop(web.Response())
        if options.redirect:
            return await self._send(web.Response(status=302, headers={"Location": "/redirected"}), "failed")
        if options.status is not None or options.body is not None:
            return await self._send(odd_response(options, self.request.headers.get("Authorization", "")), "failed")
        if options.error_body or (options.error_event is not None and not streams):
            return await self._send(error_response(200, "The server had an error.", code=options.error_code), "failed")
        if options.endless_line:
            return await self._stream_endlessly()
        return await (self._stream() if streams and not options.json_for_sse else self._send_document())

    async def _stream(self) -> web.StreamResponse:
        options, call, framer = self.options, self.call, Framer(self.options)
        response = await self._begin(EVENT_STREAM)
        await pause(options.think_ms)
        for event in stream_events(self.answer):
            if await self._stops_here(response, framer):
                return response
            if call.events_sent:
                await pause(options.gap_ms)
            await self._write_event(response, framer, event)
            if options.gate and call.events_sent == 1:
                await self.gate.wait()
        if await self._stops_here(response, framer):
            return response
        if not options.no_done and not options.no_finish:
            await response.write(framer.frame("[DONE]")[0])
        return await self._end(response, framer, "cut" if options.no_finish else "served")

    async def _write_event(self, response: web.StreamResponse, framer: Framer, event: Event) -> None:
        for number, piece in enumerate(framer.frame(event.data)):
            # Without a moment between them the kernel would hand both pieces to the reader as one.
            await pause(SPLIT_MS if number else 0)
            await response.write(piece)
        self.call.events_sent += 1
        self.call.words += event.words
        self.call.reasoning_words += event.reasoning_words
        if event.usage is not None:
            self.call.reported.append(event.usage)

    async def _stops_here(self, response: web.StreamResponse, framer: Framer) -> bool:
        """Carry out the fault that is due after the events sent so far, if any."""
        options, sent = self.options, self.call.events_sent
        if options.stall == sent:
            await fall_silent()
        if options.cut == sent:
            # A reader drops what it has not read yet when the break arrives; it gets time to read every event.
            await pause(BEFORE_CUT_MS)
            self._drop(response)
            return True
        if options.error_event == sent:
            error = error_document("The server had an error.", kind="server_error", code=options.error_code)
            await response.write(framer.frame(dump(error))[0])
            await self._end(response, framer, "failed")
            return True
        return False

    async def _send_document(self) -> web.StreamResponse:
        options = self.options
        if options.gate:
            await self.gate.wait()
        document = build_document(self.answer)
        body = dump(document).encode()
        body = compress(body) if options.gzip else body
        self.call.words = len(self.answer.words) * self.ask.choices
        self.call.reasoning_words = self.answer.reasoning_words * self.ask.choices
        self.call.reported = [document["usage"]] if "usage" in document else []
        if not options.think_ms and options.cut is None and options.stall is None:
            return await self._send(web.Response(body=body, headers=self._headers(JSON)), "served")
        missing = MISSING_BYTES if options.cut is not None else 0
        response = await self._begin(JSON, length=len(body) + missing)
        await pause(options.think_ms)
        if options.stall is not None:
            await response.write(body[: len(body) // 2])
            await fall_silent()
        await response.write(body)
        if missing:
            return self._drop(response)
        await response.write_eof()
        self.settle("served")
        return response

    async def _stream_endlessly(self) -> web.StreamResponse:
        """One line until the client leaves; only a write to the connection that it left ends this."""
        response = await self._begin(EVENT_STREAM if self.ask.stream else JSON)
        await response.write(b'data: {"' if self.ask.stream else b'{"')
        while True:
            await response.write(ENDLESS_PIECE)
            await asyncio.sleep(0)

    async def _begin(self, content_type: str, *, length: int | None = None) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers(content_type))
        response.content_length = length
        await response.prepare(self.request)
        return response

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Content-Type": content_type, "x-request-id": f"req-sim-{self.call.n}"}
        if self.options.gzip:
            headers["Content-Encoding"] = "gzip"
        return headers | ({"Cache-Control": "no-cache"} if content_type == EVENT_STREAM else {})

    async def _send(self, response: web.Response, state: State) -> web.Response:
        await response.prepare(self.request)
        await response.write_eof()
        self.settle(state)
        return response

    async def _end(self, response: web.StreamResponse, framer: Framer, state: State) -> web.StreamResponse:
        await response.write_eof(framer.finish())
        self.settle(state)
        return response

    def _drop(self, response: web.StreamResponse) -> web.StreamResponse:
        self.settle("cut")
        drop_connection(self.request, reset=self.options.reset)
        return response

    def settle(self, state: State) -> None:
        call = self.call
        if state in ("served", "cut", "left"):
            call.counts = count_tokens(self.ask, self.options, call.words, call.reasoning_words)
        self.log.finish(call, state)


async def pause(delay_ms: int) -> None:
    if delay_ms:
        await asyncio.sleep(delay_ms / 1000)


async def fall_silent() -> None:
    """Wait until the client leaves, which cancels the handler."""
    await asyncio.Event().wait()


def drop_connection(request: web.Request, *, reset: bool) -> None:
    """Close the connection under an unfinished answer: after what was written, or at once with a reset."""
    transport = request.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    # Lingering for zero seconds turns the close into a reset; a twin of the socket allows it with every event loop.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def error_document(
    message: str, *, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, *, param: str | None = None, code: str | None = None) -> web.Response:
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return web.Response(
        status=status, body=dump(error_document(message, kind=kind, param=param, code=code)), content_type=JSON
    )


def odd_response(options: Options, authorization: str) -> web.Response:
    """The error that the options ask for."""
    status = options.status or 200
    message = f"Simulated failure with status {status}."
    if options.echo_key:
        message += f" Incorrect credential: {authorization}"
    headers = {} if options.retry_after is None else {"Retry-After": str(options.retry_after)}
    match options.body:
        case "html":
            page = f"<html><body><h1>{status}</h1><p>{message}</p></body></html>"
            return web.Response(status=status, body=page, content_type="text/html", headers=headers)
        case "empty":
            return web.Response(status=status, headers=headers)
        case "json":
            return web.Response(status=status, body=dump({"detail": message}), content_type=JSON, headers=headers)
        case "string":
            return web.Response(status=status, body=dump({"error": message}), content_type=JSON, headers=headers)
    response = error_response(status, message, code=options.error_code)
    response.headers.update(headers)
    return response
