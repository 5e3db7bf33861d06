"""What a caller asks of the simulated provider: one request body, checked and reduced to what the answer depends on.

How the answer behaves is in the model's name and belongs to `options`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


class Refusal(Exception):
    """The request is one that a provider refuses; it becomes an OpenAI-shaped error."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True)
class Ask:
    """One chat completion as it was asked for."""

    model: str
    messages: Sequence[Message]
    stream: bool
    include_usage: bool
    choices: int
    most_words: int | None
    tools: Sequence[str]

    @property
    def tool(self) -> str:
        """The tool that is called when nobody orders one."""
        return self.tools[0] if self.tools else "note"


def parse_ask(body: object) -> Ask:
    """Check the decoded body, refusing what a real provider refuses."""
    if not isinstance(body, dict):
        raise Refusal("The request body must be a JSON object.")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal("You must provide a model.", param="model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Refusal("'messages' must be a list of at least one message.", param="messages")
    stream_options = body.get("stream_options")
    bounds = [_whole_number(body, name) for name in ("max_tokens", "max_completion_tokens")]
    return Ask(
        model=model,
        messages=messages,
        stream=body.get("stream") is True,
        include_usage=isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
        choices=_whole_number(body, "n") or 1,
        most_words=min((bound for bound in bounds if bound is not None), default=None),
        tools=_tool_names(body.get("tools")),
    )


def decode_body(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Refusal(f"The request body is not JSON: {error}") from error


def message_text(message: Message) -> str:
    """All text of a message: its string, or the text parts of its list."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _whole_number(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise Refusal(f"'{name}' must be a whole number of at least 1.", param=name)
    return value


def _tool_names(tools: object) -> list[str]:
    listed = tools if isinstance(tools, list) else []
    functions = [tool.get("function") for tool in listed if isinstance(tool, dict)]
    return [one["name"] for one in functions if isinstance(one, dict) and isinstance(one.get("name"), str)]
