"""Programs that need a screen, a container or an account: their own requests, replayed header by header and field by field.

What they send was recorded or read in their sources; what they make of the answer is checked on the wire, with the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.shelf import Shelf, strict_events
from tests.rig import Answer, Price, Rig, client

JS = {"Accept": "application/json", "Accept-Encoding": "br, gzip, deflate", "Accept-Language": "*"}
STAINLESS = {
    **JS, "User-Agent": "OpenAI/JS 5.12.2", "X-Stainless-Lang": "js", "X-Stainless-Package-Version": "5.12.2",
    "X-Stainless-OS": "MacOS", "X-Stainless-Arch": "arm64", "X-Stainless-Runtime": "node",
    "X-Stainless-Runtime-Version": "v22.15.1", "X-Stainless-Retry-Count": "0", "X-Stainless-Timeout": "600",
}  # fmt: skip
PYTHON = {
    "Accept": "application/json", "Accept-Encoding": "gzip, deflate, br, zstd", "User-Agent": "AsyncOpenAI/Python 1.99.9",
    "X-Stainless-Lang": "python", "X-Stainless-Async": "async:asyncio", "X-Stainless-Read-Timeout": "600",
}  # fmt: skip
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOL = {"type": "function", "function": {"name": "read_file", "description": "Reads.", "parameters": PARAMETERS}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
CALL = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"a.py"}'}}
ROUND = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
]
SYSTEM, USER = {"role": "system", "content": "You are helpful."}, {"role": "user", "content": "What is in a.py?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Sent:
    """A request as a program makes it, but for key and model."""

    headers: dict[str, str]
    fields: dict[str, Any]
    calls_tool: bool = False

    @property
    def streams(self) -> bool:
        return self.fields.get("stream") is True

    @property
    def asks_usage(self) -> bool:
        return bool(self.fields.get("stream_options", {}).get("include_usage"))


REQUESTS = {
    "Cursor's Verify button": Sent(
        {"User-Agent": "Go-http-client/2.0", "Accept-Encoding": "gzip"},
        {"messages": [{"role": "system", "content": "You are a test assistant."},
                      {"role": "user", "content": "Testing. Just say hi and nothing else."}]},
    ),
    "Cursor's Ask mode": Sent(
        {"User-Agent": "Go-http-client/2.0", "Accept": "text/event-stream", "Accept-Encoding": "gzip"},
        {**WITH_USAGE, "messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "What is in a.py?"}]}],
         "temperature": 1, "user": "google-oauth2|1234", "tools": [TOOL], "tool_choice": "auto"},
    ),
    "Continue's chat": Sent(
        {**STAINLESS, "User-Agent": "node-fetch", "x-api-key": "", "api-key": ""},
        {**WITH_USAGE, "messages": [SYSTEM, USER], "max_tokens": 4096, "tools": [TOOL], "parallel_tool_calls": False},
    ),
    "Continue's autocomplete": Sent(
        {**STAINLESS, "Accept": "*/*"},
        {**WITH_USAGE, "messages": [{"role": "user", "content": "<|fim_prefix|>def f(<|fim_suffix|>"}], "max_tokens": 256,
         "temperature": 0.01, "stop": ["<|endoftext|>", "\n\n", "```"]},
    ),
    "Roo's agent": Sent(
        {**STAINLESS, "HTTP-Referer": "https://github.com/RooVetGit/Roo-Cline", "X-Title": "Roo Code",
         "User-Agent": "RooCode/3.36"},
        {**WITH_USAGE, "temperature": 0, "tools": [STRICT], "tool_choice": "auto", "parallel_tool_calls": False,
         "messages": [{"role": "system", "content": [{"type": "text", "text": "You are Roo.", **EPHEMERAL}]},
                      {"role": "user", "content": [{"type": "text", "text": "What is in a.py?", **EPHEMERAL}, PICTURE]},
                      *ROUND],
         "max_completion_tokens": 8192},
        calls_tool=True,
    ),
    "Cline's panel": Sent(
        {**STAINLESS, "HTTP-Referer": "https://cline.bot", "X-Title": "Cline"},
        {**WITH_USAGE, "messages": [SYSTEM, USER, *ROUND], "temperature": 0, "tools": [TOOL], "tool_choice": "auto",
         "parallel_tool_calls": False},
        calls_tool=True,
    ),
    "n8n's OpenAI Chat Model": Sent(
        {**STAINLESS, "User-Agent": "n8n", "openai-platform": "org.n8n.io"},
        {"messages": [USER], "temperature": 0.7, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1,
         "stream": False, "tools": [TOOL], "max_completion_tokens": 1024},
        calls_tool=True,
    ),
    "n8n's streamed agent": Sent(
        {**STAINLESS, "User-Agent": "n8n"},
        {**WITH_USAGE, "messages": [USER, *ROUND], "tools": [TOOL], "n": 1},
    ),
    "Dify's validation": Sent(
        {"User-Agent": "python-requests/2.32.3", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"},
        {"max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]},
    ),
    "Dify's chat": Sent(
        {"User-Agent": "python-requests/2.32.3", "Accept": "*/*", "Accept-Charset": "utf-8"},
        {"stream": True, "temperature": 0.7, "top_p": 1, "max_tokens": 512, "messages": [SYSTEM, USER], "user": "abc-123",
         "stop": ["Human:"], "tool_choice": "auto", "tools": [TOOL]},
    ),
    "Open WebUI's chat": Sent(
        {"User-Agent": "Python/3.11 aiohttp/3.12.15", "Accept": "*/*", "X-OpenWebUI-User-Name": "Ada%20L",
         "X-OpenWebUI-User-Id": "1", "X-OpenWebUI-User-Email": "ada@example.com",
         "X-OpenWebUI-User-Role": "admin", "X-OpenWebUI-Chat-Id": "c-1"},
        {**WITH_USAGE, "messages": [USER], "max_tokens": 128, "temperature": 0.8, "seed": 0},
    ),
    "Open WebUI's title": Sent(
        {"User-Agent": "Python/3.11 aiohttp/3.12.15", "Accept": "*/*"},
        {"stream": False, "messages": [USER], "max_completion_tokens": 1000},
    ),
    "LibreChat's chat": Sent(
        {**STAINLESS, "User-Agent": "LibreChat"},
        {**WITH_USAGE, "messages": [SYSTEM, USER], "user": "66b0", "temperature": 1, "top_p": 1, "presence_penalty": 0,
         "frequency_penalty": 0},
    ),
    "LangChain with a base of its own": Sent(
        {**PYTHON, "User-Agent": "langchain-openai"},
        {"stream": True, "messages": [SYSTEM, USER], "max_completion_tokens": 200, "temperature": 0.0,
         "parallel_tool_calls": False, "tools": [STRICT]},
    ),
    "LangChain's structured output": Sent(
        PYTHON,
        {"stream": False, "messages": [USER], "response_format": {"type": "json_schema", "json_schema": {
            "name": "File", "strict": True, "schema": {**PARAMETERS, "additionalProperties": False}}}},
    ),
    "LangChain for JavaScript": Sent(
        STAINLESS,
        {**WITH_USAGE, "messages": [USER], "temperature": 0, "functions": [TOOL["function"]], "function_call": "auto"},
    ),
    "aider's edit": Sent(
        {**PYTHON, "HTTP-Referer": "https://aider.chat", "X-Title": "Aider"},
        {"stream": True, "temperature": 0, "messages": [SYSTEM, USER, {"role": "assistant", "content": "Ok."}, USER]},
    ),
    "opencode's agent": Sent(
        {"User-Agent": "ai-sdk/openai-compatible/1.0.22 ai-sdk/provider-utils/3.0.12 runtime/bun/1.3.0", "Accept": "*/*",
         "Connection": "keep-alive", "Accept-Encoding": "gzip, deflate, br, zstd"},
        {**WITH_USAGE, "messages": [SYSTEM, USER, *ROUND], "max_tokens": 8_192, "temperature": 0, "top_p": 1, "tools": [TOOL],
         "tool_choice": "auto", "reasoning_effort": "medium", "prompt_cache_key": "ses_1"},
        calls_tool=True,
    ),
    "Qwen Code's agent": Sent(
        {**STAINLESS, "User-Agent": "QwenCode/0.24.4 (linux; x64)", "X-DashScope-CacheControl": "enable"},
        {**WITH_USAGE, "messages": [SYSTEM, USER, *ROUND], "temperature": 0, "top_p": 1, "tools": [TOOL],
         "metadata": {"sessionId": "s", "promptId": "p"}, "vl_high_resolution_images": True},
        calls_tool=True,
    ),
}  # fmt: skip
# A key is verified by these before anything else is asked.
VERIFY = {
    "Cursor": ({"User-Agent": "Go-http-client/2.0"}, "/v1/models"),
    "n8n's credential": ({"User-Agent": "n8n", "Accept": "application/json, text/plain, */*"}, "/v1/models"),
    "n8n's search": ({"User-Agent": "n8n"}, "/v1/models?limit=100"),
    "Open WebUI": ({"User-Agent": "Python/3.11 aiohttp/3.12.15", "X-OpenWebUI-User-Role": "admin"}, "/v1/models"),
    "LibreChat": (
        {"User-Agent": "axios/1.12.1", "Accept": "application/json, text/plain, */*"},
        "/v1/models?user=66b0",
    ),
    "Continue": (STAINLESS, "/v1/models"),
    "Roo": ({"User-Agent": "axios/1.12.0", "Accept": "application/json, text/plain, */*"}, "/v1/models"),
    "Dify": ({"User-Agent": "python-requests/2.32.3"}, "/v1/models"),
    "LiteLLM": ({"User-Agent": "litellm/1.110.2"}, "/v1/models?return_wildcard_routes=true"),
}


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    yield Shelf(rig, {"says": "sim:words=5", "calls": "sim:words=4,tools", "breaks": "sim:words=6,gap_ms=10,cut=3"})
    rig.reconcile()


async def replay(shelf: Shelf, sent: Sent, name: str) -> Answer:
    # Continue sends the key a second and a third time.
    own = {header: value or shelf.customer.key for header, value in sent.headers.items()}
    body = json.dumps({"model": shelf.alias[name], **sent.fields}, separators=(",", ":")).encode()
    return await shelf.rig.post({**own, **shelf.customer.headers}, body)


@pytest.mark.parametrize("program", REQUESTS)
async def test_the_request_is_served_reaches_the_provider_whole_and_is_charged_once(shelf: Shelf, program: str) -> None:
    sent = REQUESTS[program]
    name = "calls" if sent.calls_tool else "says"
    calls, before = len(await shelf.calls(name)), shelf.rig.spent_nano(shelf.customer)
    answer = await replay(shelf, sent, name)
    assert answer.status == 200, answer.body
    # What it says: asked for as JSON or as anything, a stream is a stream and a whole answer is JSON.
    assert answer.headers["content-type"].startswith("text/event-stream" if sent.streams else "application/json")
    usage = read_stream(answer, shelf, name, sent) if sent.streams else read_whole(answer, shelf, name, sent)
    # What came to the provider.
    call, *more = (await shelf.calls(name))[calls:]
    assert not more
    arrived = dict(call["body"])
    assert arrived.pop("model") == shelf.upstream[name]
    if sent.streams:
        assert arrived.pop("stream_options") == {"include_usage": True}
    bound = {} if sent.fields.keys() & {"max_tokens", "max_completion_tokens"} else {"max_tokens": 8_192}
    assert arrived == bound | {key: value for key, value in sent.fields.items() if key != "stream_options"}
    assert set(call["headers"]) == {"host", "authorization", "content-type", "user-agent", "content-length"}
    assert shelf.customer.key not in json.dumps(call)
    # What it costs.
    counted = call["usage"]
    charge = Price().charge_nano(counted["prompt"], counted["completion"])
    assert shelf.rig.spent_nano(shelf.customer) - before == charge > 0
    if usage is not None:
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (counted["prompt"], counted["completion"])


def read_stream(answer: Answer, shelf: Shelf, name: str, sent: Sent) -> dict[str, Any] | None:
    events = strict_events(answer, shelf.alias[name])
    told = [event["usage"] for event in events if event.get("usage")]
    assert len(told) == sent.asks_usage
    assert not sent.asks_usage or events[-1]["choices"] == []
    choices = [choice for event in events for choice in event["choices"]]
    assert choices[-1]["finish_reason"] == ("tool_calls" if sent.calls_tool else "stop")
    if sent.calls_tool:
        pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls", [])]
        assert pieces[0]["id"]
        assert pieces[0]["function"]["name"] == "read_file"
        assert json.loads("".join(piece["function"]["arguments"] for piece in pieces))
    else:
        assert answer.text.startswith("Thank you for telling me:")
    return told[0] if told else None


def read_whole(answer: Answer, shelf: Shelf, name: str, sent: Sent) -> dict[str, Any]:
    document = answer.json
    assert (document["object"], document["model"]) == ("chat.completion", shelf.alias[name])
    (choice,) = document["choices"]
    if sent.calls_tool:
        assert choice["finish_reason"] == "tool_calls"
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    else:
        assert choice["message"]["content"].startswith("Thank you for telling me:")
    usage: dict[str, Any] = document["usage"]
    return usage


@pytest.mark.parametrize("program", [program for program, sent in REQUESTS.items() if sent.streams])
async def test_a_stream_that_breaks_off_is_an_error_event_whoever_asked(shelf: Shelf, program: str) -> None:
    before = shelf.rig.spent_nano(shelf.customer)
    answer = await replay(shelf, REQUESTS[program], "breaks")
    *words, last = answer.events
    assert set(last) == {"error"}
    assert not answer.is_done
    assert not any(choice["finish_reason"] for event in words for choice in event["choices"])
    assert shelf.rig.spent_nano(shelf.customer) == before


@pytest.mark.parametrize("program", VERIFY)
async def test_a_key_is_verified_by_the_list_of_models(shelf: Shelf, program: str) -> None:
    headers, path = VERIFY[program]
    before = shelf.rig.spent_nano(shelf.customer)
    async with client() as session:
        async with session.get(shelf.rig.url + path, headers={**headers, **shelf.customer.headers}) as good:
            assert good.status == 200
            listed = await good.json()
        async with session.get(shelf.rig.url + path, headers={**headers, "Authorization": "Bearer sk-wrong"}) as bad:
            assert bad.status == 401
            assert isinstance((await bad.json())["error"]["message"], str)
    assert {model["id"] for model in listed["data"]} == set(shelf.alias.values())
    assert shelf.rig.spent_nano(shelf.customer) == before


# ── what other endpoints' clients are told ────────────────────────────────────────────────────────────────────────

FLAT_TOOL = {
    "type": "function",
    "name": "read_file",
    "description": "Reads.",
    "parameters": PARAMETERS,
    "strict": False,
}
RESPONSES = {
    "input": [{"role": "system", "content": "You are an agent."},
              {"role": "user", "content": [{"type": "input_text", "text": "What is in a.py?"}]}],
    "tools": [FLAT_TOOL], "tool_choice": "auto", "store": False, "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "medium", "summary": "auto"}, "user": "google-oauth2|1234", "parallel_tool_calls": True,
}  # fmt: skip


@pytest.mark.parametrize("more", [WITH_USAGE, {"stream": False}], ids=["streamed", "whole"])
async def test_cursors_agent_mode_is_told_in_a_sentence_that_its_body_is_of_another_api(
    shelf: Shelf, more: dict[str, Any]
) -> None:
    calls = len(await shelf.calls("says"))
    answer = await replay(shelf, Sent({"User-Agent": "Go-http-client/2.0"}, {**RESPONSES, **more}), "says")
    assert (answer.status, answer.error["code"]) == (400, "responses_body")
    assert "Responses API" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert len(await shelf.calls("says")) == calls


@pytest.mark.parametrize(
    ("program", "path", "headers", "body"),
    [
        ("Codex", "/v1/responses", {"originator": "codex_exec", "Accept": "text/event-stream"}, RESPONSES),
        ("n8n's Message a model", "/v1/responses", STAINLESS, RESPONSES),
        ("AI SDK's openai()", "/v1/responses", {"User-Agent": "ai/5.0.60"}, RESPONSES),
        ("Claude Code", "/v1/messages?beta=true", {"x-api-key": "sk", "anthropic-version": "2023-06-01"},
         {"max_tokens": 10, "messages": [USER]}),
        ("Continue's FIM", "/v1/fim/completions", STAINLESS, {"prompt": "def f(", "suffix": ""}),
        ("an old completion", "/v1/completions", PYTHON, {"prompt": "Once"}),
        ("Open WebUI's embeddings", "/v1/embeddings", {}, {"input": ["text"]}),
    ],
)  # fmt: skip
async def test_an_endpoint_that_there_is_not_is_a_404_that_names_the_one_there_is(
    shelf: Shelf, program: str, path: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    text = json.dumps({"model": shelf.alias["says"], **body, "stream": True}).encode()
    answer = await shelf.rig.post({**headers, **shelf.customer.headers}, text, path)
    assert (answer.status, answer.error["code"]) == (404, "not_found"), program
    assert "chat completions" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
