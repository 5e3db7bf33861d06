"""The answers themselves: the words, the JSON document, and the events of a stream, as pure functions of the ask.

How events become bytes is in `framing`; when they are sent, and where it goes wrong, in `exchange`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from gateway.simulator.asks import Ask, Message, message_text
from gateway.simulator.options import Options
from gateway.simulator.usage import Counts, Usage, count_so_far, count_tokens, shape_usage

OPENING = ("Thank", "you", "for", "telling", "me:")
FILLER = ("It", "is", "a", "fine", "day,", "the", "sea", "is", "calm,", "and", "every", "word", "is", "counted.")
UNICODE_FILLER = ("naïve", "cafés", "über", "smörgåsbord", "日本語", "🙂👍")
FINGERPRINT = "fp_simulated"

Document = dict[str, Any]
_ORDER = re.compile(r"CALL (\w+) (\{.*)", re.DOTALL)


@dataclass(frozen=True)
class Order:
    """A tool that the user orders to be called; no program asks so, but a test that drives a program may."""

    tool: str
    arguments: str


@dataclass(frozen=True)
class Event:
    """One `data:` event: its JSON, the words and reasoning words it carries, the usage it reports."""

    data: str
    words: int = 0
    reasoning_words: int = 0
    usage: Usage | None = None


@dataclass(frozen=True)
class Answer:
    """All that an answer consists of, before it is JSON or a stream. Every choice has the same words."""

    ask: Ask
    options: Options
    id: str
    created: int
    words: Sequence[str]
    finish_reason: str
    order: Order | None = None

    @property
    def calls_tool(self) -> bool:
        return self.options.tools or self.order is not None

    @property
    def reasoning_words(self) -> int:
        return len(self.words) // 2 if self.options.reasoning_text and not self.calls_tool else 0

    @property
    def counts(self) -> Counts:
        choices = self.ask.choices
        return count_tokens(self.ask, self.options, len(self.words) * choices, self.reasoning_words * choices)


def compose_answer(ask: Ask, options: Options, *, number: int, created: int) -> Answer:
    order = find_order(ask) if options.obey else None
    if order is not None:
        return Answer(ask, options, f"chatcmpl-sim-{number}", created, order.arguments.split(" "), "tool_calls", order)
    count = options.words if ask.most_words is None else min(options.words, ask.most_words)
    heard = ("user", "tool") if options.obey else ("user",)
    words = answer_words(ask.messages, count, unicode=options.split_utf8, heard=heard)
    if options.big_event is not None and words:
        words[0] = "x" * options.big_event
    whole = "tool_calls" if options.tools else "stop"
    finish_reason = whole if count == options.words else "length"
    return Answer(ask, options, f"chatcmpl-sim-{number}", created, words, finish_reason)


def find_order(ask: Ask) -> Order | None:
    """What the last user message orders, if that tool is there and has not answered yet."""
    latest: Message = next((one for one in reversed(ask.messages) if one.get("role") in ("user", "tool")), {})
    found = _ORDER.search(message_text(latest)) if latest.get("role") == "user" else None
    if found is None or found[1] not in ask.tools:
        return None
    try:
        arguments, _ = json.JSONDecoder().raw_decode(found[2])
    except ValueError:
        return None
    return Order(found[1], dump(arguments))


def answer_words(
    messages: Sequence[Message], count: int, *, unicode: bool = False, heard: Sequence[str] = ("user",)
) -> list[str]:
    """Exactly `count` words: thanks, the last message that was heard (half of the answer at most), and pleasantries."""
    if unicode:
        return list(islice(cycle(UNICODE_FILLER), count))
    asked = next((message_text(one) for one in reversed(messages) if one.get("role") in heard), "")
    words = [*OPENING, *asked.split()[: max(count // 2, 1)]]
    return [*words, *islice(cycle(FILLER), max(count - len(words), 0))][:count]


def build_document(answer: Answer) -> Document:
    """The whole answer as one `chat.completion`."""
    reasoning, content = (" ".join(part) for part in _split_at(answer.words, answer.reasoning_words))
    message: Document = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if answer.options.json:
        message["content"] = "".join(_argument_pieces(answer))
    if answer.calls_tool:
        arguments = "".join(_argument_pieces(answer))
        message |= {"content": None, "tool_calls": [_tool_call(answer, arguments)]}
    choice = {"message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    document = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.ask.model,
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": index} | choice for index in range(answer.ask.choices)],
    }
    usage = shape_usage(answer.options.usage, answer.counts)
    return document if usage is None else document | {"usage": usage}


def stream_events(answer: Answer) -> Iterator[Event]:
    """The events of a stream, without [DONE]: a word each, a finish for each choice, the usage."""
    writer = _ChunkWriter(answer)
    if answer.options.null_choices:
        yield writer.chunk({"choices": None})
        yield writer.chunk({})
    yield from _word_events(answer, writer)
    if answer.options.no_finish:
        return
    yield from _finish_events(answer, writer)
    usage = shape_usage(answer.options.usage, answer.counts)
    if usage is None or not answer.ask.include_usage or answer.options.usage in ("cumulative", "with_choices"):
        return
    choices: list[Document] = [{}] if answer.options.usage == "empty_choice" else []
    for _ in range(2 if answer.options.usage == "twice" else 1):
        yield writer.chunk({"choices": choices}, usage=usage)


def dump(document: object) -> str:
    """Compact JSON, as providers send it; NaN included, as some do."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _word_events(answer: Answer, writer: "_ChunkWriter") -> Iterator[Event]:
    choices, total = answer.ask.choices, len(answer.words) * answer.ask.choices
    for position, delta in enumerate(_deltas(answer)):
        is_reasoning = int(position < answer.reasoning_words)
        for index in range(choices):
            sent = position * choices + index + 1
            chunk = {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
            yield writer.chunk(chunk, words=1, reasoning_words=is_reasoning, usage=_running_usage(answer, sent, total))


def _finish_events(answer: Answer, writer: "_ChunkWriter") -> Iterator[Event]:
    """One for each choice; usage that rides on choices rides on the last."""
    indexes = [index for index in range(answer.ask.choices) for _ in range(2 if answer.options.dup_finish else 1)]
    for position, index in enumerate(indexes, start=1):
        rides = answer.options.usage in ("cumulative", "with_choices") and position == len(indexes)
        usage = shape_usage(answer.options.usage, answer.counts) if rides else None
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}
        yield writer.chunk({"choices": [choice]}, usage=usage)


def _running_usage(answer: Answer, sent: int, total: int) -> Usage | None:
    if answer.options.usage != "cumulative":
        return None
    return shape_usage("openai", count_so_far(answer.counts, sent, total))


def _deltas(answer: Answer) -> Iterator[Document]:
    """The deltas of one choice, a word each; the first one carries the role."""
    pieces = _argument_pieces(answer) if answer.calls_tool or answer.options.json else _text_pieces(answer)
    for position, piece in enumerate(pieces):
        delta: Document = {}
        if position == 0 and not answer.options.role_missing:
            delta["role"] = "assistant"
        if not answer.calls_tool:
            delta["reasoning_content" if position < answer.reasoning_words else "content"] = piece
        elif position == 0:
            delta |= {"content": None, "tool_calls": [{"index": 0} | _tool_call(answer, piece)]}
        else:
            delta["tool_calls"] = [{"index": 0, "function": {"arguments": piece}}]
        yield delta


def _text_pieces(answer: Answer) -> list[str]:
    starts = (0, answer.reasoning_words)
    return [word if position in starts else f" {word}" for position, word in enumerate(answer.words)]


def _argument_pieces(answer: Answer) -> list[str]:
    """The arguments that were ordered, or {"text": "..."}, in as many pieces as there are words."""
    is_ordered = answer.order is not None
    pieces = [word if is_ordered else json.dumps(word, ensure_ascii=False)[1:-1] for word in answer.words]
    pieces = [piece if position == 0 else f" {piece}" for position, piece in enumerate(pieces)]
    if pieces and not is_ordered:
        pieces[0] = '{"text":"' + pieces[0]
        pieces[-1] += '"}'
    return pieces


def _tool_call(answer: Answer, arguments: str) -> Document:
    function = {"name": answer.order.tool if answer.order else answer.ask.tool, "arguments": arguments}
    return {"id": f"call_{answer.id}", "type": "function", "function": function}


def _split_at(words: Sequence[str], place: int) -> tuple[Sequence[str], Sequence[str]]:
    return words[:place], words[place:]


class _ChunkWriter:
    """Writes chunks of one answer; it knows their common head and how many there were."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._written = 0
        self._head = {
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": answer.ask.model,
            "system_fingerprint": FINGERPRINT,
        }
        self._nulls = answer.options.null_usage and answer.ask.include_usage

    def chunk(self, rest: Document, *, words: int = 0, reasoning_words: int = 0, usage: Usage | None = None) -> Event:
        self._written += 1
        varied = f"{self._answer.id}-{self._written}" if self._answer.options.ids == "vary" else self._answer.id
        document = {"id": varied} | self._head | rest
        if usage is not None or self._nulls:
            document["usage"] = usage
        return Event(dump(document), words, reasoning_words, usage)
