"""Plays a scene with one library and prints what its user would see, as JSON. The scene comes in the environment (`SCENE`);
one that lists `asks` is those alone, each of them with the library's own retries.

A library's file says how it asks (`chat`) and how it goes once around with a tool (`use_tool`). It knows nothing of the tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

SCENE = json.loads(os.environ["SCENE"])
PICTURE = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Ask:
    """What to ask, and how. `retries` None leaves them to the library."""

    base_url: str
    key: str
    model: str
    text: str = "Hello there"
    picture: str | None = None
    stream: bool = False
    json: bool = False
    retries: int | None = 0

    @property
    def messages(self) -> list[dict[str, Any]]:
        if self.picture is None:
            return [{"role": "user", "content": self.text}]
        image = {"type": "image_url", "image_url": {"url": self.picture}}
        return [{"role": "user", "content": [{"type": "text", "text": self.text}, image]}]


@dataclass(frozen=True)
class Said:
    """What came of it, as the library tells it."""

    text: str
    usage: tuple[int, int] | None = None


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def play(chat: Callable[[Ask], Said], use_tool: Callable[[Ask], tuple[dict[str, Any], str]]) -> None:
    """Every act of the scene. `use_tool` gives the arguments that the tool was called with, and the last words."""
    alias = SCENE["alias"]
    plain = Ask(SCENE["base_url"], SCENE["key"], alias["says"])
    if "asks" in SCENE:
        print(json.dumps([_fault(chat, replace(plain, retries=None, **ask)) for ask in SCENE["asks"]]))
        return
    order = replace(plain, model=alias["obeys"], text='CALL weather {"city": "Oslo"}')
    seen: dict[str, Any] = {}
    for manner, stream in (("plain", False), ("streamed", True)):
        seen[manner] = _said(chat, replace(plain, stream=stream))
        arguments, words = use_tool(replace(order, stream=stream))
        seen[f"{manner} tool"] = {"arguments": arguments, "text": words}
        seen[f"{manner} picture"] = _said(chat, replace(plain, stream=stream, picture=PICTURE))
    seen["json"] = _said(chat, replace(plain, model=alias["json"], json=True))
    seen["outage that passes"] = _said(chat, replace(plain, model=alias["flaky"], retries=None))
    for name, other in SCENE["refusals"].items():
        for stream in (False, True):
            seen[f"{name} {'streamed' if stream else 'plain'}"] = _fault(chat, replace(plain, stream=stream, **other))
    seen["cut"] = _fault(chat, replace(plain, model=alias["cut"], stream=True))
    print(json.dumps(seen))


def _said(chat: Callable[[Ask], Said], ask: Ask) -> dict[str, Any]:
    said = chat(ask)
    return {"text": said.text, "usage": said.usage}


def _fault(chat: Callable[[Ask], Said], ask: Ask) -> dict[str, Any]:
    try:
        return {"said": chat(ask).text}
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
