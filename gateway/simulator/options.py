"""What a model's name can ask of the simulated provider: the one table of options, and its parser.

`sim` answers plainly, `sim:words=60,cut=40` with options. What an option does is carried out in `answers`, `usage`,
`framing` and `exchange`. `script:NAME` has no options: it replays what a test uploaded.
"""

import dataclasses
import re
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gateway.simulator.asks import Refusal

USAGE_SHAPES = (
    "openai", "deepseek", "anthropic", "xai", "gemini", "total_only", "none", "zero", "cumulative", "with_choices",
    "empty_choice", "twice", "negative", "nan", "bool", "string", "huge", "cached_above_prompt",
)  # fmt: skip


def number(default: int | None, does: str, *, most: int = 2**63, fault: bool = False) -> Any:
    return field(default=default, metadata={"kind": "N", "does": does, "most": most, "fault": fault})


def flag(does: str, *, fault: bool = False) -> Any:
    return field(default=False, metadata={"kind": "", "does": does, "fault": fault})


def choice(default: str | None, values: tuple[str, ...], does: str, *, fault: bool = False) -> Any:
    return field(default=default, metadata={"kind": "|".join(values), "values": values, "does": does, "fault": fault})


def text(does: str) -> Any:
    return field(default=None, metadata={"kind": "TEXT", "does": does, "fault": False})


@dataclass(frozen=True)
class Options:
    """How one call is answered. An event is one `data:` event other than [DONE]; each word is an event of its own."""

    words: int = number(12, "words of the answer", most=1_000_000)
    tools: bool = flag("the words are the arguments of a tool call")
    obey: bool = flag("calls the tool that the user orders as CALL NAME {arguments}, then says what the tool answered")
    json: bool = flag("the words are the text of a JSON object, as in JSON mode")
    reasoning_text: bool = flag("the first half of the words is reasoning_content")
    big_event: int | None = number(None, "the first word is that many bytes long", most=2**27)

    first_ms: int = number(0, "delay before the response's headers")
    think_ms: int = number(0, "silence between the headers and the first event")
    gap_ms: int = number(0, "delay between events")
    gate: bool = flag("waits after the first event (JSON: before the headers) for POST /release?model=NAME")

    status: int | None = number(None, "answers with this HTTP status and an error", most=599, fault=True)
    error_code: str | None = text("the error's code")
    body: str | None = choice(
        None, ("html", "empty", "json", "string"), "an odd body; status 200 if none is given", fault=True
    )
    retry_after: int | None = number(None, "Retry-After of the error, in seconds")
    echo_key: bool = flag("the error's message quotes the credential that the call carried")
    redirect: bool = flag("302 to /redirected, which logs a call of model 'redirected'", fault=True)
    reset: bool = flag("reads the request, then resets the connection (RST); with cut, the cut is a reset", fault=True)
    silent: bool = flag("never answers", fault=True)
    cut: int | None = number(
        None, "closes the connection after that many events; JSON: 100 bytes short of its Content-Length", fault=True
    )
    stall: int | None = number(None, "falls silent after that many events; JSON: after half the body", fault=True)
    error_event: int | None = number(
        None, "an error event after that many events, then the end; JSON: as error_body", fault=True
    )
    error_body: bool = flag("status 200 with an error as its JSON body", fault=True)
    json_for_sse: bool = flag("answers with JSON though a stream was asked", fault=True)
    endless_line: bool = flag("one line that never ends, in pieces of 64 KiB", fault=True)
    no_done: bool = flag("a stream without [DONE]", fault=True)
    no_finish: bool = flag("a stream without finish_reason, usage and [DONE] that ends cleanly", fault=True)
    flaky: int | None = number(None, "the faults (else status 500) befall the first N calls of this name only")
    flap: int | None = number(None, "the faults (else status 500) befall N calls, spare N, befall N ...")

    usage: str = choice(
        "openai", USAGE_SHAPES, "its shape; streams send it if include_usage asks, cumulative and with_choices always"
    )
    prompt: int | None = number(None, "prompt tokens, those read from and written to a cache included")
    cached: int = number(0, "prompt tokens read from a cache (give prompt as well)")
    written: int = number(0, "prompt tokens written to a cache (give prompt as well)")
    completion: int | None = number(None, "completion tokens, reasoning included")
    reasoning: int | None = number(None, "reasoning tokens; without completion they come on top of the words")
    null_usage: bool = flag('chunks before the usage have "usage":null when include_usage asks')

    crlf: bool = flag("lines end with CRLF")
    bom: bool = flag("the stream begins with a byte order mark")
    comments: bool = flag("comments between and inside events")
    nospace: bool = flag("'data:' without the space")
    split_utf8: bool = flag("non-ASCII words; each event is split within a character into two writes")
    gzip: bool = flag("Content-Encoding: gzip, asked for or not")
    null_choices: bool = flag("begins with a chunk whose choices are null and one without choices")
    role_missing: bool = flag("the first delta has no role")
    dup_finish: bool = flag("each finish_reason comes twice")
    ids: str = choice("same", ("same", "vary"), "vary: every chunk has an id of its own")

    calls: str = choice("on", ("on", "off"), "off: the call is not logged")
    tag: str | None = text("does nothing; makes the name one's own")

    def for_call(self, earlier_calls: int) -> "Options":
        """These options as a call meets them: flaky and flap decide whether the faults befall it."""
        if self.flaky is None and self.flap is None:
            return self
        struck = earlier_calls < self.flaky if self.flaky is not None else self._flaps(earlier_calls)
        calm = dataclasses.replace(self, **_FAULTLESS)
        if not struck:
            return calm
        return dataclasses.replace(self, status=500) if self == calm else self

    def _flaps(self, earlier_calls: int) -> bool:
        return (earlier_calls // max(self.flap or 1, 1)) % 2 == 0


_FIELDS = {one.name: one for one in dataclasses.fields(Options)}
_FAULTLESS: dict[str, Any] = {one.name: one.default for one in _FIELDS.values() if one.metadata["fault"]}


@lru_cache(maxsize=4096)
def parse_options(model: str) -> Options:
    """The options in a model's name `sim` or `sim:option,option=value`; anything else is refused by its name."""
    family, _, listed = model.partition(":")
    if family != "sim":
        raise Refusal(f"The model '{model}' does not exist.", param="model", code="model_not_found", status=404)
    chosen: dict[str, Any] = {}
    for item in filter(None, listed.split(",")):
        name, given, value = item.partition("=")
        if name not in _FIELDS:
            raise Refusal(f"Unknown option '{name}' in the model's name.", param="model", code="unknown_option")
        chosen[name] = _parse_value(name, value if given else None)
    return Options(**chosen)


def describe_options() -> str:
    """The table of options as plain text, for `--help`."""
    head = (
        "The model's name decides: `sim` answers plainly, `script:NAME` replays what was put to /scripts/NAME,",
        "and `sim:words=60,cut=40` has options. An event is one `data:` event other than [DONE], a word is one event.",
        "",
    )
    return "\n".join([*head, *map(_describe_option, _FIELDS.values())])


def _parse_value(name: str, value: str | None) -> Any:
    rules = _FIELDS[name].metadata
    wants = f"Option '{name}' takes {rules['kind'] or 'no value'}"
    if not rules["kind"] and value is None:
        return True
    if rules["kind"] == "N" and re.fullmatch("[0-9]{1,19}", value or "") and int(value or "") <= rules["most"]:
        return int(value or "")
    if rules["kind"] == "TEXT" and value:
        return value
    if value in rules.get("values", ()):
        return value
    bound = f" of at most {rules['most']}" if rules["kind"] == "N" else ""
    raise Refusal(f"{wants}{bound}, not '{value or ''}'.", param="model", code="bad_option")


def _describe_option(one: "dataclasses.Field[Any]") -> str:
    kind, values = one.metadata["kind"], one.metadata.get("values", ())
    title = f"{one.name}={'...' if values else kind}" if kind else one.name
    default = f" ({one.default})" if one.default and kind else ""
    listed = textwrap.wrap(f"one of {', '.join(values)}", 100) if values else []
    return "\n".join([f"  {title:<16}{one.metadata['does']}{default}", *(f"{'':<18}{line}" for line in listed)])
