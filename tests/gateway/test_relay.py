"""Streams are read alike however their bytes are cut and dressed, and go out in one dialect, word for word."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay import StreamBroken, StreamRelay
from gateway.sse import DONE, MOST_EVENT_BYTES, EventSplitter, EventTooLarge
from models.prices import Meters

ALIAS = 'alias "é"'


# ── sse: bytes in, events out ─────────────────────────────────────────────────────────────────────────────────────

# What a JSON event consists of: no line breaks, no white space around it.
datas = st.lists(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), min_size=1)
    .map(str.strip)
    .filter(bool)
    .map(str.encode),
    max_size=6,
)
cuts = st.lists(st.integers(0, 10_000), max_size=12)
dresses = st.lists(
    st.tuples(
        st.sampled_from([b"\n", b"\r\n", b"\r"]),
        st.sampled_from([b"data: ", b"data:"]),
        st.sampled_from(
            [b"", b": comment\n", b": block\n\n", b":\n", b"event: x\n", b"id: 7\nretry: 3\n", b"data:\n\n", b"\n"]
        ),
    ),
    min_size=1,
    max_size=4,
)


def split_at(whole: bytes, places: Sequence[int]) -> list[bytes]:
    """The packets that these places cut the bytes into."""
    borders = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[a:b] for a, b in itertools.pairwise(borders)] or [b""]


def split_events(packets: Sequence[bytes]) -> list[bytes]:
    splitter = EventSplitter()
    events = [data for packet in packets for data in splitter.feed(packet)]
    return events + splitter.close()


@given(datas, cuts)
def test_packets_may_end_anywhere(events: list[bytes], places: list[int]) -> None:
    whole = b"".join(b"data: " + data + b"\n\n" for data in events)
    assert split_events(split_at(whole, places)) == events
    assert split_events([bytes([byte]) for byte in whole]) == events


@given(datas, cuts, dresses, st.booleans(), st.booleans())
def test_line_ends_marks_comments_and_missing_spaces_change_nothing(
    events: list[bytes], places: list[int], dress: list[tuple[bytes, bytes, bytes]], bom: bool, unfinished: bool
) -> None:
    whole = b"\xef\xbb\xbf" if bom else b""
    for i, data in enumerate(events):
        end, field, before = dress[i % len(dress)]
        whole += before.replace(b"\n", end) + field + data + end * 2
    if unfinished:
        # Some providers end without the last blank line, or even without the line's end.
        whole = whole.rstrip(b"\r\n")
    assert split_events(split_at(whole, places)) == events


def test_a_line_that_never_ends_is_given_up() -> None:
    splitter = EventSplitter()
    piece = b"x" * 65_536
    for _ in range(MOST_EVENT_BYTES // len(piece)):
        assert splitter.feed(piece) == []
    with pytest.raises(EventTooLarge):
        splitter.feed(piece)


def test_an_event_of_the_largest_size_arrives() -> None:
    data = b"y" * (2 * 1024 * 1024)
    whole = b"data: " + data + b"\n\n"
    assert split_events([whole[i : i + 65_536] for i in range(0, len(whole), 65_536)]) == [data]


# ── the relay: one dialect ────────────────────────────────────────────────────────────────────────────────────────


def chunk(words: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta: dict[str, Any] = {} if words is None else {"content": words}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "upstream",
        "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **more,
    }


def stream_of(texts: Sequence[str], *, ascii_only: bool = False, usage: Any = None, done: bool = True) -> list[bytes]:
    """The events of a usual stream as their data, in compact JSON."""
    first = chunk()
    first["choices"][0]["delta"] = {"role": "assistant", "content": ""}
    chunks = [first, *(chunk(text) for text in texts), chunk(finish="stop")]
    if usage is not None:
        chunks.append({**chunk(), "choices": [], "usage": usage})
    found = [json.dumps(c, separators=(",", ":"), ensure_ascii=ascii_only).encode() for c in chunks]
    return [*found, DONE] if done else found


def framed(events: Sequence[bytes]) -> bytes:
    return b"".join(b"data: " + data + b"\n\n" for data in events)


def new_relay(*, wants_usage: bool = False) -> StreamRelay:
    return StreamRelay(ALIAS, "request-1", 1_700_000_000, wants_usage=wants_usage)


def run(packets: Sequence[bytes], *, careful: bool = False, wants_usage: bool = False) -> tuple[StreamRelay, bytes]:
    """What the client gets of these packets, before the tail. `careful` never takes the short way."""
    relay, out = new_relay(wants_usage=wants_usage), b""
    for packet in packets:
        if careful:
            relay._shape = None
        out += relay.feed(packet)
    return relay, out + relay.close()


def parsed(out: bytes) -> list[Any]:
    blocks = out.split(b"\n\n")
    assert blocks.pop() == b""
    assert all(block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def words_of(events: Sequence[Any]) -> list[str]:
    return [choice["delta"]["content"] for e in events for choice in e["choices"] if "content" in choice["delta"]]


# Quotes, backslashes, bits of JSON, control characters, emoji: whatever could be taken for the end of the text.
texts = st.lists(
    st.one_of(
        st.text(st.characters(blacklist_categories=("Cs",)), max_size=12),
        st.sampled_from(
            ['"', "\\", '\\"', "\\\\", '"}', "data: ", "\n\n", '"},"logprobs":null', "[DONE]", "🙂", "é", ""]
        ),
        st.lists(st.sampled_from(list('"\\{}[]:,\n u0041aé🙂')), max_size=10).map("".join),
    ),
    max_size=8,
)


@given(texts, st.booleans(), cuts)
def test_the_short_way_says_what_the_careful_way_says(words: list[str], ascii_only: bool, places: list[int]) -> None:
    events = stream_of(words, ascii_only=ascii_only)
    one_by_one = [framed([data]) for data in events]
    careful, expected = run(one_by_one, careful=True)
    for packets in (one_by_one, [framed(events)], split_at(framed(events), places)):
        relay, out = run(packets)
        assert parsed(out) == parsed(expected)
        assert relay.text == careful.text == "".join(words).encode()
        assert relay.is_whole
    sent = parsed(expected)
    assert words_of(sent) == ["", *words]
    assert {event["model"] for event in sent} == {ALIAS}
    assert [e["choices"][0]["finish_reason"] for e in sent] == [None] * (len(words) + 1) + ["stop"]


@given(texts, cuts, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans())
def test_the_dress_of_a_stream_does_not_show_in_what_goes_out(
    words: list[str], places: list[int], end: bytes, bom: bool, spaced: bool
) -> None:
    events = stream_of(words)
    field = b"data: " if spaced else b"data:"
    dressed = b"".join(b": ping" + end * 2 + field + data + end * 2 for data in events)
    _, out = run(split_at((b"\xef\xbb\xbf" if bom else b"") + dressed, places))
    _, plain = run([framed(events)])
    assert out == plain


@given(texts, cuts)
def test_a_well_formed_event_passes_with_its_own_digits_and_fields(words: list[str], places: list[int]) -> None:
    odd = '"seed":12345678901234567890123,"temperature":0.10000000000000000001,"x":1e400'
    events = [data.replace(b'"created"', odd.encode() + b',"created"') for data in stream_of(words)]
    _, out = run(split_at(framed(events), places))
    assert out.count(odd.encode()) == len(events) - 1


def test_ids_that_vary_become_one_and_duplicate_endings_are_dropped() -> None:
    events = [json.loads(data) for data in stream_of(["a", "b"], done=False)]
    events += [chunk(finish="stop"), chunk("late")]
    for i, event in enumerate(events):
        event["id"] = f"id-{i}"
    _, out = run([framed([json.dumps(event).encode() for event in events])])
    assert {event["id"] for event in parsed(out)} == {"id-0"}
    assert words_of(parsed(out)) == ["", "a", "b"]
    assert [e["choices"][0]["finish_reason"] for e in parsed(out)].count("stop") == 1


def test_data_over_several_lines_goes_out_as_one_line() -> None:
    document = json.dumps(
        {**chunk("hello"), "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}, indent=1
    )
    dressed = b"".join(b"data: " + line + b"\n" for line in document.encode().split(b"\n")) + b"\n"
    _, out = run([dressed, framed([json.dumps(chunk(finish="stop")).encode()])])
    assert parsed(out)[0]["choices"][0]["delta"]["tool_calls"] == [{"index": 0}]


def test_half_an_emoji_in_each_of_two_events_breaks_nothing() -> None:
    halves = [json.dumps(chunk("X")).replace("X", half).encode() for half in (r"\ud83d", r"\ude42")]
    whole = framed([stream_of([])[0], *halves, *stream_of([])[1:]])
    for packets in ([whole], [bytes([byte]) for byte in whole]):
        relay, out = run(packets)
        assert relay.is_whole
        assert words_of(parsed(out)) == ["", "\ufffd", "\ufffd"]
    emoji = [data.replace(b'"X"', rb'"\\ud83d \ud83d\ude42"') for data in stream_of(["X"])]
    _, out = run([framed(emoji)])
    assert words_of(parsed(out)) == ["", "\\ud83d 🙂"]


# ── whole, cut, broken ────────────────────────────────────────────────────────────────────────────────────────────


def until_broken(packets: Sequence[bytes]) -> tuple[StreamRelay, bytes, bool]:
    """The relay, what it let through, and whether it broke."""
    relay, out = new_relay(), b""
    try:
        for packet in packets:
            out += relay.feed(packet)
        out += relay.close()
    except StreamBroken:
        return relay, out, True
    return relay, out, False


@pytest.mark.parametrize(
    "bad",
    [b'{"error":{"message":"no"}}', b'{"error":"no"}', b"[]", b"7", b"{", b"<html>", b'{"detail":"x"}', b"null",
     b'{"choices":7}', b'{"choices":[7]}', b'{"choices":[{"index":0,"delta":7}]}'],
)  # fmt: skip
def test_what_is_no_chunk_breaks_the_stream_after_what_came_before_it(bad: bytes) -> None:
    begun = framed(stream_of(["a", "b"])[:3])
    relay, out, broke = until_broken([begun, framed([bad])])
    assert broke
    assert not relay.is_whole
    assert words_of(parsed(out)) == ["", "a", "b"]
    relay, out, broke = until_broken([framed([bad])])
    assert (out, broke, relay.is_whole) == (b"", True, False)


@pytest.mark.parametrize("pieces", [[b"a\xff"], [b"\xc3", b"\xa9"], [b"b", b"\xf0\x9f", b"c"]])
@pytest.mark.parametrize("role", [b"", b'"role":"assistant",'])
def test_bytes_that_are_no_text_never_reach_a_client(pieces: list[bytes], role: bytes) -> None:
    """Nor does half of a character whose other half is in the next event."""
    head, _, tail = json.dumps(chunk("?"), separators=(",", ":")).encode().partition(b'"content":"?"')
    begun = stream_of(["a", "b"])[:3]
    events = [*begun, *[head + role + b'"content":"' + words + b'"' + tail for words in [b"x", b"y", *pieces, b"z"]]]
    _, one_by_one = run([framed([data]) for data in events])
    _, as_one = run([framed(begun), framed(events[3:])])
    assert parsed(one_by_one) == parsed(as_one)
    assert words_of(parsed(as_one))[3:] == ["x", "y", *[words.decode("utf-8", "replace") for words in pieces], "z"]


@pytest.mark.parametrize("odd", [b'"x\xff":1', b'"x\xff":' + b"9" * 5000])
def test_a_whole_answer_has_its_end_whatever_stands_beside_its_first_words(odd: bytes) -> None:
    """It was charged for by then."""
    first = json.dumps(chunk("a", finish="stop"), separators=(",", ":")).replace(
        '"delta":{', '"delta":{"role":"assistant",'
    )
    relay, _ = run([framed([b"{" + odd + b"," + first.encode()[1:], DONE])], wants_usage=True)
    assert relay.is_whole
    assert (
        parsed(relay.tail(Meters(fresh=1, output=1), "1").removesuffix(b"data: [DONE]\n\n"))[-1]["usage"][
            "total_tokens"
        ]
        == 2
    )


def test_an_error_in_the_very_first_packet_sends_nothing_so_that_another_route_may_serve() -> None:
    packet = framed([*stream_of(["a", "b"])[:3], b'{"error":{"message":"no"}}'])
    relay, out, broke = until_broken([packet])
    assert (out, broke, relay.is_whole) == (b"", True, False)


@given(texts, st.sampled_from([b'{"error":{"message":"no"}}', b"{", b'{"choices":5}']), st.data())
def test_what_came_before_an_error_reaches_the_client_however_it_was_packed(
    words: list[str], bad: bytes, data: st.DataObject
) -> None:
    """One packet may hold the last words, their finish and then nonsense: none of the words may be swallowed."""
    whole = framed([*stream_of(words, done=False), bad])
    start = framed(stream_of([])[:1])
    places = data.draw(cuts)
    relay, out, broke = until_broken([start, *split_at(whole[len(start) :], places)])
    assert broke
    assert words_of(parsed(out)) == ["", *words]
    assert relay.is_whole


@given(texts, st.integers(0, 10_000))
def test_half_a_stream_is_never_whole(words: list[str], place: int) -> None:
    events = stream_of(words, done=False)
    whole = framed(events[:-1])
    relay = new_relay()
    relay.feed(whole[: place % (len(whole) + 1)])
    assert not relay.is_whole


@given(st.integers(1, 4), st.data())
def test_a_stream_is_whole_when_every_choice_has_its_finish(n: int, data: st.DataObject) -> None:
    finished = data.draw(st.sets(st.integers(0, n - 1)))
    events = [chunk("a", index=i) for i in range(n)] + [chunk(index=i, finish="stop") for i in finished]
    relay, _ = run([framed([json.dumps(event).encode() for event in events])])
    assert relay.is_whole == (len(finished) == n)
    relay.feed(framed([DONE]))
    assert relay.is_whole
    # A provider that is done without saying why is given a reason for each choice.
    tail = relay.tail(Meters(), "0")
    assert tail.count(b'"finish_reason":"stop"') == n - len(finished)
    assert tail.endswith(b"data: [DONE]\n\n")


def test_a_choice_that_never_began_was_asked_for_all_the_same() -> None:
    relay = StreamRelay(ALIAS, "request-1", 1, wants_usage=False, choices=2)
    relay.feed(framed([json.dumps(chunk("a")).encode(), json.dumps(chunk(finish="stop")).encode()]))
    assert not relay.is_whole
    relay.feed(framed([json.dumps(chunk("b", index=1)).encode(), json.dumps(chunk(index=1, finish="stop")).encode()]))
    assert relay.is_whole


# ── usage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_usage_is_read_from_any_chunk_and_the_last_one_stands() -> None:
    """Faults 10 and 11."""
    counted = [{"prompt_tokens": 7, "completion_tokens": n} for n in (10, 50, 100)]
    rides = [chunk("a", usage=counted[0]), chunk("b", usage=counted[1]), chunk(finish="stop", usage=counted[2])]
    own = [chunk("a"), chunk(finish="stop"), {**chunk(), "choices": [], "usage": counted[2]}]
    empty = [chunk("a"), chunk(finish="stop"), {**chunk(), "choices": [{}], "usage": counted[2]}]
    nulls = [chunk("a", usage=None), chunk(finish="stop", usage=counted[2]), chunk("late", usage=None)]
    for events in (rides, own, empty, nulls):
        relay, out = run([framed([json.dumps(event).encode()]) for event in events])
        assert relay.meters == Meters(fresh=7, output=100)
        assert b"usage" not in out
        assert all(event["choices"] for event in parsed(out))


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 9, "completion_tokens": 2, "queue_time": 0.5}, {"prompt_tokens": -1}]
)
def test_usage_that_was_asked_for_comes_once_at_the_end_with_the_charge(usage: dict[str, Any]) -> None:
    relay, out = run([framed(stream_of(["a"], usage=usage))], wants_usage=True)
    assert b"usage" not in out
    events = parsed(relay.tail(Meters(fresh=3, output=4), "0.25").replace(b"data: [DONE]\n\n", b""))
    assert len(events) == 1
    assert events[0]["choices"] == []
    assert events[0]["usage"]["cost_credits"] == "0.25"
    if relay.meters is None:
        assert (events[0]["usage"]["prompt_tokens"], events[0]["usage"]["completion_tokens"]) == (3, 4)
    else:
        assert events[0]["usage"] == usage | {"cost_credits": "0.25"}
