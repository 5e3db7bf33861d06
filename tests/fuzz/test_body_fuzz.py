"""Hostile bodies against the real server: never a 500, never a traceback, never an upstream call for what was refused."""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st

from tests.clients.shelf import HELLO, Shelf
from tests.rig import Rig, start_rig

log = logging.getLogger(__name__)
DRILL_S = 60
REFUSED = {400, 401, 402, 403, 413, 415, 429}
QUICK = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
ENDLESS = settings(QUICK, derandomize=False, max_examples=2_000)

# ── bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = [
    -1,
    0,
    1,
    2,
    128,
    129,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**40,
    -(2**63),
    0.0,
    -0.0,
    1.0,
    1.5,
    1e308,
]
TEXTS = ["", " ", "9", "null", "\x00", "\ud800", "\ud83d\ude00", "é" * 50, "a\r\nb", "data:image/png;base64,AAAA", "<|end|>",
         "../..", "{}", "NaN", "auto", "text", "user", "x" * 10_000,
         # Written without quotes: numbers that Python would not write.
         "@1e999@", "@-1E+400@", "@-0@", "@1.0e2@", "@123456789012345678901234567890.50@", "@01@", "@+1@", "@.5@"]  # fmt: skip
KEYS = [
    "role", "content", "type", "text", "image_url", "url", "name", "tool_calls", "function", "arguments", "parameters",
    "include_usage", "id", "refusal", "input_audio", "data", "cache_control", "", "\x00", "é",
]  # fmt: skip
FIELDS = [
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools", "tool_choice",
    "functions", "response_format", "prediction", "modalities", "service_tier", "audio", "models", "provider", "route",
    "fallbacks", "plugins", "api_base", "base_url", "api_key", "extra_headers", "web_search_options", "temperature", "top_p",
    "stop", "seed", "user", "logit_bias", "logprobs", "metadata", "reasoning", "input", "unknown", "error", "usage", "choices",
]  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), inner, max_size=4),
    ),
    max_leaves=12,
)


def mostly(sound: st.SearchStrategy[Any], hostile: st.SearchStrategy[Any] = anything) -> st.SearchStrategy[Any]:
    """Five times out of six the sound one, so that a body gets beyond the first check."""
    return st.integers(0, 5).flatmap(lambda chance: hostile if chance == 0 else sound)


parts = st.fixed_dictionaries(
    {"type": mostly(st.sampled_from(["text", "image_url", "input_audio", "file", "refusal"]))},
    optional={"text": anything, "image_url": anything, "input_audio": anything, "file": anything},
)
contents = mostly(st.one_of(st.text(max_size=30), st.none(), st.lists(parts, max_size=3)))
messages = st.fixed_dictionaries(
    {
        "role": mostly(st.sampled_from(["system", "user", "assistant", "tool", "developer"]), scalars),
        "content": contents,
    },
    optional={"name": anything, "tool_calls": anything, "tool_call_id": scalars, "refusal": anything, "x": anything},
)
tools = st.fixed_dictionaries(
    {"type": mostly(st.sampled_from(["function", "custom"]))}, optional={"function": anything, "x": anything}
)
# Mostly sound, so that what is hostile is met by whatever comes after the first checks.
near_bodies = st.fixed_dictionaries(
    {"messages": st.one_of(st.just(HELLO), st.lists(messages, min_size=1, max_size=3))},
    optional={
        "stream": mostly(st.booleans(), scalars),
        "stream_options": mostly(st.just({"include_usage": True})),
        "max_tokens": mostly(st.integers(1, 99), scalars),
        "max_completion_tokens": mostly(st.integers(1, 99), scalars),
        "n": mostly(st.integers(1, 3), scalars),
        "tools": mostly(st.lists(tools, max_size=2)),
        "service_tier": mostly(st.sampled_from(["auto", "default"])),
        "modalities": mostly(st.just(["text"])),
        "response_format": anything,
        "prediction": anything,
        "functions": anything,
        "temperature": scalars,
        "user": scalars,
    },
)
changes = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=2)
deep = st.tuples(
    st.sampled_from(["messages", "tools", "response_format", "metadata", "stop", "stream_options", "functions"]),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"content":', "}]")]),
    st.sampled_from([50, 500, 1_000, 3_000, 100_000]),
)


@st.composite
def bodies(draw: st.DrawFn, aliases: list[str]) -> bytes:
    """One body: JSON that is nearly right, JSON of any kind, bytes, or a sound one in which some bytes were changed."""
    alias = draw(st.sampled_from(aliases))
    kind = draw(
        st.sampled_from(["near", "near", "near", "changed", "json", "bytes", "mutated", "mutated", "deep", "twice"])
    )
    event(kind)
    sound = {"model": alias, "messages": HELLO, "max_tokens": 5, "stream": draw(st.booleans())}
    if kind == "near":
        return dump({"model": alias} | draw(near_bodies))
    if kind == "changed":
        return dump(sound | draw(changes))
    if kind == "json":
        return dump(draw(anything))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "deep":
        field, (head, tail), depth = draw(deep)
        return dump(sound)[:-1] + f',"{field}":{head * depth}1{tail * depth}}}'.encode()
    if kind == "twice":
        return dump(sound)[:-1] + b"," + dump(draw(changes) | {"x": 1})[1:]
    text = bytearray(dump(sound | draw(changes)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 3))] = draw(st.one_of(st.binary(max_size=3), st.sampled_from(list(b'{}[]":,\\'))
                                                          .map(lambda one: bytes([one]))))  # fmt: skip
    return bytes(text)


def dump(document: Any) -> bytes:
    """JSON as hostile programs write it: NaN and half characters included."""
    return re.sub(rb'"@([^"]*)@"', rb"\1", json.dumps(document).encode())


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────


class Target:
    """One connection to the gateway and one to the provider, whose log tells what reached it."""

    def __init__(self, rig: Rig) -> None:
        # The one counts its tokens, of the other we have to count them.
        self.shelf = Shelf(
            rig, {"counted": "sim:words=3", "uncounted": "sim:words=3,usage=none"}, context_tokens=1_000_000
        )
        self.gateway, self.provider = _connect(rig.url), _connect(rig.provider.root)
        self.served = 0

    @property
    def aliases(self) -> list[str]:
        return [self.shelf.alias[name] for name in ("counted", "uncounted")]

    def post(self, body: bytes) -> tuple[int, bytes]:
        headers = {**self.shelf.customer.headers, "Content-Type": "application/json"}
        self.gateway.request("POST", "/v1/chat/completions", body, headers)
        response = self.gateway.getresponse()
        return response.status, response.read()

    def calls(self) -> int:
        """How many calls reached the provider for our aliases."""
        return sum(len(json.loads(self._provider("GET", name))) for name in ("counted", "uncounted"))

    def forget(self) -> None:
        for name in ("counted", "uncounted"):
            self._provider("DELETE", name)
        self.served = 0

    def check(self, body: bytes) -> None:
        status, answer = self.post(body)
        event(f"status {status}")
        if status == 200:
            self.served += 1
            assert b'"error"' not in answer[-600:] or b'"choices"' in answer[-600:], answer
            if answer.startswith(b"data: "):
                assert answer.endswith(b"data: [DONE]\n\n"), answer
        else:
            assert status in REFUSED, (status, answer)
            error = json.loads(answer)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert self.calls() == self.served, f"refused with {status}, and yet the provider was called"
        if self.served > 20:
            assert self.calls() == self.served
            self.forget()

    def _provider(self, method: str, name: str) -> bytes:
        self.provider.request(method, f"/calls?model={quote(self.shelf.upstream[name])}")
        return self.provider.getresponse().read()


def _connect(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    return http.client.HTTPConnection(str(address.hostname), int(address.port or 80), timeout=30)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A rig of its own, so that every line of its log comes from here."""
    with start_rig(tmp_path_factory.mktemp("fuzz"), GATEWAY_COOLDOWN_AFTER="1000000") as rig:
        yield Target(rig)
        rig.reconcile()


def assert_quiet(target: Target) -> None:
    """Nothing is held, and the server has nothing to report."""
    log = target.shelf.rig.server.log.read_text()
    assert "Traceback" not in log, log[-5_000:]
    assert "[error" not in log, log[-5_000:]
    assert target.shelf.rig.held_nano(target.shelf.customer) == 0


def fuzz(target: Target, how: settings, start: int) -> None:
    @seed(start)
    @how
    @given(body=bodies(target.aliases))
    def every_body_is_answered_or_refused(body: bytes) -> None:
        target.check(body)

    target.shelf.rig.desk.credits.grant(
        target.shelf.customer.email, credits="1000000", reason="fuzz", grant_key=f"fuzz-{time.time_ns()}"
    )
    every_body_is_answered_or_refused()


def test_no_body_is_a_500_and_no_refused_body_reaches_a_provider(target: Target) -> None:
    fuzz(target, QUICK, 0)
    assert_quiet(target)


@pytest.mark.drill
def test_no_body_is_a_500_for_a_minute_of_bodies_never_seen_before(target: Target) -> None:
    """Other bodies than those of every day, but the same ones each time; with LONG=1 they are new, and the seed is shown."""
    until = time.monotonic() + DRILL_S
    start = random.randrange(1 << 32) if os.environ.get("LONG") else 1
    while time.monotonic() < until:
        log.warning("seed %s", start)
        fuzz(target, ENDLESS, start)
        start += 1
    assert_quiet(target)
