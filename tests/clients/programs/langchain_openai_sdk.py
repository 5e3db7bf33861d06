"""LangChain: ChatOpenAI with a base URL of its own, set up as the documentation says."""

from __future__ import annotations

from typing import Any

import act
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI


def model_of(ask: act.Ask) -> ChatOpenAI:
    retries = {} if ask.retries is None else {"max_retries": ask.retries}
    return ChatOpenAI(
        model=ask.model, base_url=ask.base_url, api_key=ask.key, use_responses_api=False, stream_usage=True, timeout=30,
        **retries,
    )  # fmt: skip


def put_together(runnable: Any, messages: Any, stream: bool) -> Any:
    if not stream:
        return runnable.invoke(messages)
    whole = None
    for chunk in runnable.stream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


def chat(ask: act.Ask) -> act.Said:
    runnable: Any = model_of(ask)
    if ask.json:
        runnable = runnable.bind(response_format={"type": "json_object"})
    answer = put_together(runnable, [HumanMessage(ask.messages[0]["content"])], ask.stream)
    usage = answer.usage_metadata
    return act.Said(answer.content, usage and (usage["input_tokens"], usage["output_tokens"]))


def use_tool(ask: act.Ask) -> tuple[dict[str, Any], str]:
    runnable = model_of(ask).bind_tools([act.WEATHER])
    asked = HumanMessage(ask.text)
    answer = put_together(runnable, [asked], ask.stream)
    (call,) = answer.tool_calls
    result = ToolMessage(act.weather(**call["args"]), tool_call_id=call["id"])
    return call["args"], put_together(runnable, [asked, answer, result], ask.stream).content


act.play(chat, use_tool)
