"""Owns the ready snippets: how curl, the OpenAI SDKs, Cursor and Cline are told of a base URL, a key and an alias. Pure."""

from __future__ import annotations

import json
import shlex

import msgspec

MAX_TOKENS = 160
_MESSAGE = "Hello"


class Snippet(msgspec.Struct, frozen=True):
    """Text to paste, or (`settings`) what to enter where: pairs of a field's name and its value; `note` says the rest."""

    id: str
    title: str
    text: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    note: str = ""


def snippets(base_url: str, key: str, alias: str) -> list[Snippet]:
    """`base_url` ends in /v1."""
    settings = (("Base URL", base_url), ("API key", key), ("Model", alias))
    return [
        Snippet("curl", "curl", curl(base_url, key, alias)),
        Snippet("python", "Python, OpenAI SDK", python(base_url, key, alias), note="pip install openai"),
        Snippet("node", "Node, OpenAI SDK", node(base_url, key, alias), note="npm install openai"),
        Snippet(
            "cursor",
            "Cursor",
            settings=settings,
            note="Settings → Models: turn on “OpenAI API Key” and paste the key, turn on “Override OpenAI Base URL” and "
            "enter the base URL, then add the model by its name. Cursor calls from its own servers, so the address must be "
            "reachable from the internet.",
        ),
        Snippet(
            "cline",
            "Cline",
            settings=settings,
            note="Settings → API Provider: choose “OpenAI Compatible”, then fill in these three.",
        ),
    ]


def curl(base_url: str, key: str, alias: str) -> str:
    body = (
        f'{{\n    "model": {_quoted(alias)},\n    "messages": [{{"role": "user", "content": {_quoted(_MESSAGE)}}}],\n'
        f'    "max_tokens": {MAX_TOKENS}\n  }}'
    )
    return (
        f"curl {shlex.quote(f'{base_url}/chat/completions')} \\\n"
        f'  -H "Authorization: Bearer {key}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}"
    )


def python(base_url: str, key: str, alias: str) -> str:
    return f"""from openai import OpenAI

client = OpenAI(
    base_url={_quoted(base_url)},
    api_key={_quoted(key)},
)
response = client.chat.completions.create(
    model={_quoted(alias)},
    messages=[{{"role": "user", "content": {_quoted(_MESSAGE)}}}],
    max_tokens={MAX_TOKENS},
)
print(response.choices[0].message.content)"""


def node(base_url: str, key: str, alias: str) -> str:
    return f"""import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: {_quoted(base_url)},
  apiKey: {_quoted(key)},
}});
const response = await client.chat.completions.create({{
  model: {_quoted(alias)},
  messages: [{{ role: "user", content: {_quoted(_MESSAGE)} }}],
  max_tokens: {MAX_TOKENS},
}});
console.log(response.choices[0].message.content);"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
