"""Owns how much was used, pure: every provider's usage shape becomes the same disjoint meters, or is refused.

    OpenAI, xAI, Gemini  prompt_tokens includes prompt_tokens_details.cached_tokens (and cache_write_tokens)
    DeepSeek             prompt_tokens = prompt_cache_hit_tokens + prompt_cache_miss_tokens
    Anthropic            input_tokens, cache_read_input_tokens and cache_creation_input_tokens stand beside each other
    Responses            input_tokens includes input_tokens_details.cached_tokens

Reasoning is output. Where total = prompt + completion + reasoning, it was reported beside the completion and is added.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.prices import Meters

# No context window comes near this; a larger count is an error, and must not reach a price.
MOST_TOKENS = 100_000_000


class _Odd(Exception):
    """A count that is not a count."""


class _Usual(msgspec.Struct):
    """The shape that most answers have; anything else beside it sends the usage to the careful way."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: msgspec.UnsetType = msgspec.UNSET
    cache_read_input_tokens: msgspec.UnsetType = msgspec.UNSET
    cache_creation_input_tokens: msgspec.UnsetType = msgspec.UNSET
    cache_creation_tokens: msgspec.UnsetType = msgspec.UNSET
    cache_write_tokens: msgspec.UnsetType = msgspec.UNSET
    cached_tokens: msgspec.UnsetType = msgspec.UNSET
    reasoning_tokens: msgspec.UnsetType = msgspec.UNSET
    prompt_tokens_details: msgspec.Raw = msgspec.Raw()


_usual = msgspec.json.Decoder(_Usual)
_NOTHING_SPECIAL = (msgspec.Raw(), msgspec.Raw(b"null"), msgspec.Raw(b'{"cached_tokens":0}'))


def meters_from_usage(raw: bytes | msgspec.Raw) -> Meters | None:
    """Meters of a provider's usage object; None when it is missing, empty, or cannot be right (estimate, and flag it)."""
    try:
        usual = _usual.decode(raw)
        prompt, output = usual.prompt_tokens, usual.completion_tokens
        if (
            usual.prompt_tokens_details in _NOTHING_SPECIAL
            and prompt + output == usual.total_tokens
            and 0 <= prompt <= MOST_TOKENS
            and 0 <= output <= MOST_TOKENS
        ):
            return Meters(prompt, 0, 0, output)
    except (msgspec.DecodeError, ValueError):
        # Something else is in it.
        usual = None
    try:
        usage = msgspec.json.decode(raw)
        return _read(usage) if isinstance(usage, dict) else None
    except (_Odd, msgspec.DecodeError, ValueError):
        return None


def _read(usage: dict[str, Any]) -> Meters | None:
    details = _details(usage, "prompt_tokens_details") or _details(usage, "input_tokens_details")
    cached = _first(usage, details, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = _first(usage, details, "cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
    prompt = _count(usage, "prompt_tokens")
    if prompt is None and _count(usage, "prompt_cache_miss_tokens") is not None:
        prompt = (_count(usage, "prompt_cache_miss_tokens") or 0) + cached
    if prompt is None:
        prompt = _count(usage, "input_tokens")
        if prompt is not None and not details:
            prompt += cached + written
    output = _count(usage, "completion_tokens")
    if output is None:
        output = _count(usage, "output_tokens")
    if prompt is None or output is None:
        return None
    fresh = prompt - cached - written
    if fresh < 0:
        raise _Odd
    outputs = _details(usage, "completion_tokens_details") or _details(usage, "output_tokens_details")
    reasoning = _first(usage, outputs, "reasoning_tokens")
    total = _count(usage, "total_tokens")
    if reasoning > 0 and total == prompt + output + reasoning:
        output += reasoning
    return Meters(fresh, cached, written, output)


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    value = usage.get(name)
    return value if isinstance(value, dict) else {}


def _first(usage: dict[str, Any], details: dict[str, Any], *names: str) -> int:
    """The first of `names` that is given, in the details or beside them; 0 when none is."""
    for name in names:
        for place in (details, usage):
            value = _count(place, name)
            if value is not None:
                return value
    return 0


def _count(place: dict[str, Any], name: str) -> int | None:
    value = place.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        raise _Odd
    return value


def estimate_tokens(text: str) -> int:
    """Tokens of a text by a common vocabulary (o200k), for answers whose provider did not count them."""
    return int(_vocabulary().count(text))


def is_vocabulary_loaded() -> bool:
    """Loading it takes a tenth of a second, once; not on the event loop."""
    return bool(_loaded)


_loaded: list[Any] = []


def _vocabulary() -> Any:
    if not _loaded:
        from rs_bpe.bpe import openai

        _loaded.append(openai.o200k_base())
    return _loaded[0]
