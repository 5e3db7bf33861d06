"""What a call used and how a provider would report it: pure, so that a test can foretell every bill.

The rule of counting: a prompt has one token for each whitespace-separated word of all message text and 3 for each
message; a completion has one for each word sent, in every choice. The odd shapes are those seen from real providers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.simulator.asks import Ask, Message, message_text
from gateway.simulator.options import Options

TOKENS_PER_MESSAGE = 3
Usage = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """What was truly used: prompt includes cached and written tokens, completion includes reasoning."""

    prompt: int
    cached: int
    written: int
    completion: int
    reasoning: int


def count_words(text: str) -> int:
    return len(text.split())


def count_prompt_tokens(messages: Sequence[Message]) -> int:
    return sum(count_words(message_text(message)) + TOKENS_PER_MESSAGE for message in messages)


def count_tokens(ask: Ask, options: Options, words: int, reasoning_words: int = 0) -> Counts:
    """The counts when `words` were sent, `reasoning_words` of them as reasoning; explicit numbers override them."""
    reasoning = reasoning_words if options.reasoning is None else options.reasoning
    hidden = max(reasoning - reasoning_words, 0)
    return Counts(
        prompt=count_prompt_tokens(ask.messages) if options.prompt is None else options.prompt,
        cached=options.cached,
        written=options.written,
        completion=words + hidden if options.completion is None else options.completion,
        reasoning=reasoning,
    )


def count_so_far(counts: Counts, words: int, of_words: int) -> Counts:
    """The running counts of a stream that reports usage with every chunk."""
    completion, reasoning = (value * words // max(of_words, 1) for value in (counts.completion, counts.reasoning))
    return Counts(counts.prompt, counts.cached, counts.written, completion, reasoning)


def shape_usage(shape: str, counts: Counts) -> Usage | None:
    """The usage object of the shape; None when the provider sends none."""
    if shape == "none":
        return None
    return _SHAPES.get(shape, _openai)(counts)


def _openai(counts: Counts) -> Usage:
    details = {"cached_tokens": counts.cached}
    if counts.written:
        details["cache_write_tokens"] = counts.written
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }


def _deepseek(counts: Counts) -> Usage:
    return _openai(counts) | {
        "prompt_cache_hit_tokens": counts.cached,
        "prompt_cache_miss_tokens": counts.prompt - counts.cached,
    }


def _anthropic(counts: Counts) -> Usage:
    return {
        "input_tokens": counts.prompt - counts.cached - counts.written,
        "cache_creation_input_tokens": counts.written,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }


def _reasoning_outside(counts: Counts) -> Usage:
    """xAI and Gemini: completion_tokens leaves the reasoning out, total_tokens does not."""
    return _openai(counts) | {"completion_tokens": counts.completion - counts.reasoning}


def _gemini(counts: Counts) -> Usage:
    usage = _reasoning_outside(counts)
    if not counts.cached and not counts.written:
        del usage["prompt_tokens_details"]
    return usage


def _total_only(counts: Counts) -> Usage:
    """Reasoning that shows in nothing but a total above prompt + completion."""
    usage = _gemini(counts)
    del usage["completion_tokens_details"]
    return usage


def _cached_above_prompt(counts: Counts) -> Usage:
    return _openai(counts) | {"prompt_tokens_details": {"cached_tokens": counts.prompt + 100}}


def _every_number(change: Callable[[int], Any]) -> Callable[[Counts], Usage]:
    def shape(counts: Counts) -> Usage:
        usage = _openai(counts)
        return {name: change(value) if isinstance(value, int) else value for name, value in usage.items()}

    return shape


_SHAPES: dict[str, Callable[[Counts], Usage]] = {
    "deepseek": _deepseek,
    "anthropic": _anthropic,
    "xai": _reasoning_outside,
    "gemini": _gemini,
    "total_only": _total_only,
    "zero": lambda _: _openai(Counts(0, 0, 0, 0, 0)),
    "negative": _every_number(lambda value: -value),
    "nan": _every_number(lambda _: math.nan),
    "bool": _every_number(lambda _: True),
    "string": _every_number(str),
    "huge": _every_number(lambda _: 1e30),
    "cached_above_prompt": _cached_above_prompt,
}
