"""LiteLLM's SDK, set up as the documentation says."""

from __future__ import annotations

import json
import os
from typing import Any

import act

# Its own price list would be looked for on the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

litellm.suppress_debug_info = True


def complete(ask: act.Ask, messages: list[Any], **more: Any) -> Any:
    # By itself it does not try again; its users set this.
    retries = 2 if ask.retries is None else ask.retries
    return litellm.completion(
        model=f"openai/{ask.model}", api_base=ask.base_url, api_key=ask.key, messages=messages, timeout=30,
        num_retries=retries, max_retries=0, **more,
    )  # fmt: skip


def chat(ask: act.Ask) -> act.Said:
    more: dict[str, Any] = {"response_format": {"type": "json_object"}} if ask.json else {}
    if not ask.stream:
        answer = complete(ask, ask.messages, **more)
        return act.Said(answer.choices[0].message.content, (answer.usage.prompt_tokens, answer.usage.completion_tokens))
    chunks = list(complete(ask, ask.messages, stream=True, stream_options={"include_usage": True}, **more))
    words = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    usage = next((chunk.usage for chunk in reversed(chunks) if getattr(chunk, "usage", None)), None)
    return act.Said(words, usage and (usage.prompt_tokens, usage.completion_tokens))


def use_tool(ask: act.Ask) -> tuple[dict[str, Any], str]:
    answer = complete(ask, ask.messages, tools=[act.WEATHER], stream=ask.stream)
    if ask.stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=ask.messages)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    given = json.loads(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": act.weather(**given)}
    last = complete(ask, [*ask.messages, message.model_dump(), result], tools=[act.WEATHER])
    return given, last.choices[0].message.content


act.play(chat, use_tool)
