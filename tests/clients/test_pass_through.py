"""Lines 18 to 21 of the client list: what the gateway has no business with reaches the other side byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.shelf import Shelf
from tests.rig import Price, Rig

FIELDS = {
    "temperature": "0", "top_p": "0.10000000000000000555", "stop": '"\\n\\n"', "seed": "9007199254740993",
    "presence_penalty": "-0.0", "frequency_penalty": "1E-7", "logit_bias": '{"50256":-100,"1":1.50}', "user": '"ada \\u00e9"',
    "logprobs": "true", "top_logprobs": "20", "tool_choice": '{"type":"function","function":{"name":"f"}}',
    "parallel_tool_calls": "false", "functions": '[{"name":"g","parameters":{}}]', "function_call": '"auto"',
    "response_format": '{"type":"json_schema","json_schema":{"name":"s","strict":true,"schema":{"maximum":1e400}}}',
    "reasoning_effort": '"high"', "verbosity": '"low"', "reasoning": '{"effort":"low","max_tokens":2000}',
    "thinking": '{"type":"enabled","budget_tokens":1024}', "enable_thinking": "false",
    "chat_template_kwargs": '{"enable_thinking":false,"x":[1,2,null]}',
    "prediction": '{"type":"content","content":"so far"}', "metadata": '{"a":"b"}', "store": "false",
    "prompt_cache_key": '"k"', "safety_identifier": '"s"', "top_k": "40", "min_p": "0.050", "repetition_penalty": "1.0",
    "service_tier": '"default"', "modalities": '["text"]', "big": "123456789012345678901234567890.123456789012345678901",
    "unknown_field": '{ "spaced" : [ 1 , 2.00 ] , "null" : null }', "unknown_null": "null", "\\u00fcmlaut": '"\\ud83d\\ude00"',
}  # fmt: skip
TOOLS = (
    '[{"type":"function","function":{"name":"f","description":"\\u00e9","strict":true,"parameters":'
    '{"type":"object","properties":{"x":{"type":"integer","maximum":18446744073709551617}}}}}]'
)
MESSAGES = {
    "developer": '{"role":"developer","content":"Be brief.","name":"boss"}',
    "tool": '{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f",'
    '"arguments":"{\\"x\\": 1.0}"}}]},{"role":"tool","tool_call_id":"c","content":"42"}',
    "reasoning": '{"role":"assistant","reasoning_content":"hm","content":"so","refusal":null}',
    "image": '{"role":"user","content":[{"type":"text","text":"What?","cache_control":{"type":"ephemeral"}},'
    '{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo=","detail":"low"}}]}',
    "audio": '{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}]}',
    "file": '{"role":"user","content":[{"type":"file","file":{"file_id":"f-1","filename":"a.pdf"}}]}',
    "unicode": '{"role":"user","content":"\\u0000 \\ud83d\\ude00 日本語 \\/ <|endoftext|>"}',
    "function": '{"role":"function","name":"g","content":"1"}',
    "spaced": '{ "role" : "user" , "content" : "x" , "extra" : 1.0 }',
}
WHOLE = (
    '{"id":"c-1","object":"chat.completion","created":1790000000,"model":"%s","system_fingerprint":"fp","service_tier":'
    '"default","choices":[{"index":0,"message":{"role":"assistant","content":"caf\\u00e9 \\ud83d\\ude00","refusal":null,'
    '"reasoning_content":"hm","annotations":[],"tool_calls":[{"id":"t","type":"function","function":{"name":"f",'
    '"arguments":"{\\"n\\": 9007199254740993}"}}]},"logprobs":{"content":[{"token":"a","logprob":-0.10000000000000000555'
    '}]},"finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":null,"refusal":"no"},'
    '"finish_reason":"content_filter"}],"big":12345678901234567890123,"float":1.0,"exp":1E5,"usage":%s}'
)
USAGES = {
    "openai": ('{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64,'
               '"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":8}}', 36, 64, 0, 20),
    "deepseek": ('{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_cache_hit_tokens":64,'
                 '"prompt_cache_miss_tokens":36}', 36, 64, 0, 20),
    "anthropic": ('{"input_tokens":30,"output_tokens":20,"cache_read_input_tokens":64,"cache_creation_input_tokens":6}',
                  30, 64, 6, 20),
}  # fmt: skip
PRICE = Price()


@pytest.fixture(scope="module")
def shelf(rig: Rig) -> Iterator[Shelf]:
    yield Shelf(rig, {"plain": "sim:words=2", "tools": "sim:words=4,tools"})
    rig.reconcile()


async def sent_upstream(shelf: Shelf, fields: str, name: str = "plain") -> str:
    """The very text that the provider got for a body with these fields."""
    body = f'{{"model":"{shelf.alias[name]}",{fields}}}'.encode()
    answer = await shelf.rig.post(shelf.customer.headers, body)
    assert answer.status == 200, answer.body
    return str((await shelf.last_call(name))["body_text"])


# ── 18, 19: requests ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_18_every_field_passes_with_its_own_bytes(shelf: Shelf, stream: str) -> None:
    listed = "".join(f',"{name}":{value}' for name, value in (FIELDS | {"tools": TOOLS}).items())
    text = await sent_upstream(shelf, f'"messages":[{MESSAGES["unicode"]}],"stream":{stream}{listed}')
    for name, value in (FIELDS | {"tools": TOOLS}).items():
        written = name.encode().decode("unicode_escape")
        assert f'"{written}":{value}' in text, name
    assert f'"model":"{shelf.upstream["plain"]}"' in text
    assert f'"messages":[{MESSAGES["unicode"]}]' in text


@pytest.mark.parametrize("stop", ['"END"', '["a","b"]', "[]", "null"])
async def test_18_stop_is_a_string_or_a_list(shelf: Shelf, stop: str) -> None:
    assert f'"stop":{stop}' in await sent_upstream(shelf, f'"messages":[{MESSAGES["unicode"]}],"stop":{stop}')


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_18_the_bound_goes_up_under_the_name_that_the_client_used(shelf: Shelf, name: str) -> None:
    sent = json.loads(await sent_upstream(shelf, f'"messages":[{MESSAGES["unicode"]}],"{name}":77'))
    assert {key: sent[key] for key in sent if key.startswith("max_")} == {name: 77}


async def test_18_whole_numbers_may_be_written_as_floats(shelf: Shelf) -> None:
    sent = await sent_upstream(shelf, f'"messages":[{MESSAGES["unicode"]}],"max_tokens":77.0,"n":2.0')
    assert '"max_tokens":77,' in sent + ","
    assert '"n":2' in sent
    assert "2.0" not in sent


async def test_18_a_bound_above_the_models_own_goes_up_as_the_models_own(shelf: Shelf) -> None:
    sent = json.loads(await sent_upstream(shelf, f'"messages":[{MESSAGES["unicode"]}],"max_tokens":2147483647'))
    assert sent["max_tokens"] == 8_192


@pytest.mark.parametrize("kind", MESSAGES)
async def test_19_messages_of_every_kind_pass_untouched(shelf: Shelf, kind: str) -> None:
    for messages in (f"[{MESSAGES[kind]}]", f"[ {MESSAGES['developer']} , {MESSAGES[kind]} ]"):
        assert f'"messages":{messages}' in await sent_upstream(shelf, f'"messages":{messages}')


# ── 20: answers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", USAGES)
async def test_20_a_whole_answer_passes_byte_by_byte_but_for_the_alias(shelf: Shelf, shape: str) -> None:
    usage, *meters = USAGES[shape]
    await shelf.script(WHOLE % ("vendor/model-2026", usage))
    before = shelf.rig.spent_nano(shelf.customer)
    answer = await shelf.chat("scripted", n=2)
    assert answer.body.decode() == WHOLE % (shelf.alias["scripted"], usage)
    fresh, cached, written, output = meters
    charge = PRICE.charge_nano(fresh, output, cached, written)
    assert shelf.rig.spent_nano(shelf.customer) - before == charge
    assert int(float(answer.headers["x-credits-charged"]) * 10**9) == charge


@pytest.mark.parametrize("shape", USAGES)
async def test_20_the_usage_of_a_stream_keeps_its_details(shelf: Shelf, shape: str) -> None:
    usage = USAGES[shape][0]
    chunk = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":%s}'
    word = chunk % '[{"index":0,"delta":{"role":"assistant","content":"x"},"finish_reason":"stop"}]'
    last = (chunk % "[]")[:-1] + f',"usage":{usage}}}'
    await shelf.script(f"data: {word}\n\ndata: {last}\n\ndata: [DONE]\n\n")
    answer = await shelf.chat("scripted", stream=True, stream_options={"include_usage": True})
    told = answer.events[-1]["usage"]
    assert told.pop("cost_credits")
    assert told == json.loads(usage)
    assert usage[:-1].encode() in answer.body


async def test_20_an_answer_written_with_line_breaks_means_the_same_afterwards(shelf: Shelf) -> None:
    document: dict[str, Any] = json.loads(WHOLE % ("up", USAGES["openai"][0]))
    await shelf.script(json.dumps(document, indent=4))
    answer = await shelf.chat("scripted")
    assert answer.json == document | {"model": shelf.alias["scripted"]}


async def test_20_the_pieces_of_a_tool_call_make_its_arguments(shelf: Shelf) -> None:
    answer = await shelf.chat("tools", stream=True, tools=json.loads(TOOLS))
    calls = [call for event in answer.events for c in event["choices"] for call in c["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "f"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"text": "Thank you for telling"}
    whole = (await shelf.chat("tools", tools=json.loads(TOOLS))).json["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] is None
    assert json.loads(whole["message"]["tool_calls"][0]["function"]["arguments"]) == {"text": "Thank you for telling"}


# ── 21: headers ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_21_none_of_the_clients_headers_goes_upstream(shelf: Shelf) -> None:
    own = {
        "Cookie": "session=canary", "X-Forwarded-For": "203.0.113.7", "Forwarded": "for=canary", "Via": "1.1 canary",
        "OpenAI-Organization": "org-canary", "OpenAI-Beta": "canary", "X-Stainless-Lang": "canary", "User-Agent": "canary/1",
        "Accept": "canary/x", "Accept-Encoding": "br", "Origin": "https://canary.test", "Referer": "https://canary.test/",
        "traceparent": "00-canary", "api-key": "canary", "x-api-key": "canary", "Idempotency-Key": "canary",
        "X-Request-ID": "canary", "Proxy-Authorization": "Basic canary", "TE": "trailers", "X-Anything-At-All": "canary",
    }  # fmt: skip
    for stream in (False, True):
        answer = await shelf.rig.post({**shelf.customer.headers, **own}, shelf.body("plain", stream=stream))
        assert answer.status == 200
        headers = (await shelf.last_call("plain"))["headers"]
        assert headers["authorization"] == "Bearer canary-provider-credential"
        assert set(headers) == {"host", "authorization", "content-type", "user-agent", "content-length"}
        assert headers["user-agent"] == "supertomorrow-gateway"
        assert shelf.customer.key not in str(headers)
