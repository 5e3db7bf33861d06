"""OpenAI's SDK for Python, of any major version since 1."""

from __future__ import annotations

import json
from typing import Any

import act
import openai


def client_of(ask: act.Ask) -> openai.OpenAI:
    retries = {} if ask.retries is None else {"max_retries": ask.retries}
    return openai.OpenAI(base_url=ask.base_url, api_key=ask.key, timeout=30, **retries)


def chat(ask: act.Ask) -> act.Said:
    more: dict[str, Any] = {"response_format": {"type": "json_object"}} if ask.json else {}
    completions = client_of(ask).chat.completions
    if not ask.stream:
        answer = completions.create(model=ask.model, messages=ask.messages, **more)
        return act.Said(answer.choices[0].message.content, (answer.usage.prompt_tokens, answer.usage.completion_tokens))
    words, usage = "", None
    for chunk in completions.create(
        model=ask.model, messages=ask.messages, stream=True, stream_options={"include_usage": True}, **more
    ):
        words += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    return act.Said(words, usage and (usage.prompt_tokens, usage.completion_tokens))


def use_tool(ask: act.Ask) -> tuple[dict[str, Any], str]:
    completions, messages = client_of(ask).chat.completions, ask.messages
    if ask.stream:
        call, arguments = None, ""
        for chunk in completions.create(model=ask.model, messages=messages, tools=[act.WEATHER], stream=True):
            for piece in chunk.choices[0].delta.tool_calls or []:
                call = call or piece
                arguments += piece.function.arguments or ""
    else:
        answer = completions.create(model=ask.model, messages=messages, tools=[act.WEATHER])
        (call,) = answer.choices[0].message.tool_calls
        arguments = call.function.arguments
    given = json.loads(arguments)
    function = {"name": call.function.name, "arguments": arguments}
    messages = [
        *messages,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": act.weather(**given)},
    ]
    last = completions.create(model=ask.model, messages=messages, tools=[act.WEATHER])
    return given, last.choices[0].message.content


act.play(chat, use_tool)
