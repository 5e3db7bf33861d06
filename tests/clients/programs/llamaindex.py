"""LlamaIndex: OpenAILike, set up as the documentation says."""

from __future__ import annotations

from typing import Any

import act
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

TOOL = FunctionTool.from_defaults(act.weather)


def model_of(ask: act.Ask, **more: Any) -> OpenAILike:
    retries = {} if ask.retries is None else {"max_retries": ask.retries}
    return OpenAILike(
        model=ask.model, api_base=ask.base_url, api_key=ask.key, is_chat_model=True, is_function_calling_model=True,
        timeout=30, **retries, **more,
    )  # fmt: skip


def chat(ask: act.Ask) -> act.Said:
    more: dict[str, Any] = {"response_format": {"type": "json_object"}} if ask.json else {}
    blocks: list[Any] = [TextBlock(text=ask.text)]
    if ask.picture is not None:
        blocks.append(ImageBlock(url=ask.picture))
    messages = [ChatMessage(role="user", blocks=blocks)]
    if not ask.stream:
        answer = model_of(ask).chat(messages, **more)
        usage = answer.raw.usage
        return act.Said(answer.message.content or "", (usage.prompt_tokens, usage.completion_tokens))
    words, usage = "", None
    for part in model_of(ask).stream_chat(messages, stream_options={"include_usage": True}, **more):
        words += part.delta or ""
        usage = part.raw.usage or usage
    return act.Said(words, usage and (usage.prompt_tokens, usage.completion_tokens))


def use_tool(ask: act.Ask) -> tuple[dict[str, Any], str]:
    model = model_of(ask)
    asked = ChatMessage(role="user", content=ask.text)
    if ask.stream:
        *_, answer = model.stream_chat_with_tools([TOOL], chat_history=[asked])
    else:
        answer = model.chat_with_tools([TOOL], chat_history=[asked])
    call: ToolSelection
    (call,) = model.get_tool_calls_from_response(answer)
    result = ChatMessage(
        role="tool", content=act.weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
    )
    last = model.chat_with_tools([TOOL], chat_history=[asked, answer.message, result])
    return call.tool_kwargs, last.message.content or ""


act.play(chat, use_tool)
