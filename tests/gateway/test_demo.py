"""`gateway demo` as a newcomer meets it: what it prints works, costs what it should, and is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import openai
import pytest

import ops
from gateway.demo_catalog import ALIASES, REAL_PROVIDERS
from tests.rig import ROOT, Process

EMAIL = "demo@example.com"
# A fixed answer of the one alias that the demo prints: what a token of it costs, in nano-credits.
DEEPSEEK = next(entry for entry in ALIASES if entry.alias == "deepseek-chat")
INPUT_NANO, OUTPUT_NANO = (int(Decimal(usd) * 100_000) for usd in (DEEPSEEK.input_usd, DEEPSEEK.output_usd))
HELLO = [{"role": "user", "content": "Hello"}]


class Demo:
    """A running demo and everything that it printed."""

    def __init__(self, folder: Path, **environment: str) -> None:
        no_real_ones = {real.variable: "" for real in REAL_PROVIDERS}
        started = time.monotonic()
        self.process = Process(["demo", "--port", "0"], {**no_real_ones, **environment}, folder / "demo.log")
        self.ready_s = time.monotonic() - started
        stdout = self.process.popen.stdout
        assert stdout is not None
        self.printed = self.process.first_line
        while "Stop with" not in self.printed:
            line = stdout.readline()
            assert line, self.process.log.read_text()
            self.printed += line
        self.base_url = self._printed(r"Base URL +(\S+)")
        self.key = self._printed(r"API key +(\S+)")
        self.password = self._printed(r"Dashboard .*, (.+)")
        self.curls = [line for line in self.printed.splitlines() if line.startswith("curl ")]
        self.desk = ops.connect(f"sqlite://{folder / 'var' / 'gateway.db'}", operator="tests")

    def _printed(self, pattern: str) -> str:
        found = re.search(pattern, self.printed)
        assert found, self.printed
        return found.group(1)

    @property
    def balance_nano(self) -> int:
        frame = self.desk.accounts.balances()
        row = frame[frame["email"] == EMAIL].iloc[0]
        assert row["held_nano"] == 0
        return int(row["balance_nano"])


@contextlib.contextmanager
def start_demo(folder: Path, **environment: str) -> Iterator[Demo]:
    """It ends cleanly, and has nothing to complain of."""
    running = Demo(folder, **environment)
    code = None
    try:
        yield running
    finally:
        running.desk.close()
        code = running.process.stop()
    assert code == 0
    assert running.process.log.read_text() == ""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with start_demo(tmp_path_factory.mktemp("demo")) as running:
        sys.stdout.write(f"the demo was ready {running.ready_s:.2f} s after the start of its process\n")
        yield running


def paste(line: str) -> str:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=30).stdout


def test_the_server_answers_as_soon_as_it_says_so(demo: Demo) -> None:
    with urllib.request.urlopen(demo.base_url.removesuffix("/v1") + "/readyz", timeout=5) as answer:
        assert answer.status == 200


def test_the_printed_curl_line_is_answered_and_the_balance_falls_by_price_times_tokens(demo: Demo) -> None:
    before = demo.balance_nano
    answer = json.loads(paste(demo.curls[0]))
    assert answer["model"] == "deepseek-chat"
    assert answer["choices"][0]["message"]["content"]
    usage = answer["usage"]
    charge = usage["prompt_tokens"] * INPUT_NANO + usage["completion_tokens"] * OUTPUT_NANO
    assert before - demo.balance_nano == charge > 0


def test_the_printed_streaming_line_streams_and_is_charged(demo: Demo) -> None:
    before, records = demo.balance_nano, len(demo.desk.usage.records())
    events = [line.removeprefix("data: ") for line in paste(demo.curls[1]).splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert len(events) > 5
    record = demo.desk.usage.records().iloc[records]
    charge = int(record["fresh_tokens"]) * INPUT_NANO + int(record["output_tokens"]) * OUTPUT_NANO
    assert before - demo.balance_nano == charge == record["charge_nano"]


def test_the_openai_sdk_is_answered(demo: Demo) -> None:
    client = openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0)
    assert {model.id for model in client.models.list()} == {entry.alias for entry in ALIASES}
    before = demo.balance_nano
    answer = client.chat.completions.create(model="deepseek-chat", messages=HELLO, max_tokens=160)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    charge = answer.usage.prompt_tokens * INPUT_NANO + answer.usage.completion_tokens * OUTPUT_NANO
    assert before - demo.balance_nano == charge


def test_the_openai_sdk_streams_and_the_last_chunk_tells_the_cost(demo: Demo) -> None:
    client = openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0)
    before = demo.balance_nano
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="deepseek-chat", messages=HELLO, stream=True, stream_options=options)
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    usage = chunks[-1].usage
    charge = usage.prompt_tokens * INPUT_NANO + usage.completion_tokens * OUTPUT_NANO
    assert before - demo.balance_nano == charge
    assert Decimal(usage.cost_credits) * 10**9 == charge


async def test_the_asynchronous_openai_sdk_is_answered_both_ways(demo: Demo) -> None:
    client = openai.AsyncOpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0)
    before = await asyncio.to_thread(lambda: demo.balance_nano)
    answer = await client.chat.completions.create(model="deepseek-chat", messages=HELLO)
    assert answer.usage is not None
    charge = answer.usage.prompt_tokens * INPUT_NANO + answer.usage.completion_tokens * OUTPUT_NANO
    stream = await client.chat.completions.create(
        model="deepseek-chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    charge += chunks[-1].usage.prompt_tokens * INPUT_NANO + chunks[-1].usage.completion_tokens * OUTPUT_NANO
    assert before - await asyncio.to_thread(lambda: demo.balance_nano) == charge
    await client.close()


def test_every_alias_of_the_demo_answers(demo: Demo) -> None:
    client = openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0)
    for entry in ALIASES:
        answer = client.chat.completions.create(model=entry.alias, messages=HELLO, max_tokens=16)
        assert answer.model == entry.alias


def test_started_again_it_keeps_key_password_and_balance(tmp_path: Path) -> None:
    with start_demo(tmp_path) as first:
        paste(first.curls[0])
        balance_nano = first.balance_nano
    assert stat.S_IMODE((tmp_path / "var" / "demo.json").stat().st_mode) == 0o600
    with start_demo(tmp_path) as second:
        assert (second.key, second.password, second.balance_nano) == (first.key, first.password, balance_nano)
        assert json.loads(paste(second.curls[0]))["choices"]
        assert len(second.desk.catalog.models()) == len(ALIASES)


@pytest.mark.drill
def test_a_lost_demo_json_means_a_new_key_and_a_link_for_the_password(tmp_path: Path) -> None:
    with start_demo(tmp_path) as first:
        before = first.balance_nano
    (tmp_path / "var" / "demo.json").unlink()
    with start_demo(tmp_path) as second:
        assert second.key != first.key
        assert second.balance_nano == before
        assert json.loads(paste(second.curls[0]))["choices"]
        assert re.search(r"choose a password at http://\S+/reset/\S+", second.printed)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.drill)])
def test_a_stop_signal_lets_a_running_stream_finish_even_when_it_is_repeated(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start_demo(tmp_path) as running:
        body = {"model": "deepseek-reasoner", "messages": HELLO, "stream": True}
        request = urllib.request.Request(
            f"{running.base_url}/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {running.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as stream:
            assert stream.readline().startswith(b"data: ")
            for _ in range(3):
                running.process.popen.send_signal(number)
            rest = stream.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert running.process.popen.wait(20) == 0
        assert len(running.desk.usage.records()) == 1


def test_a_real_provider_takes_over_its_aliases_when_its_key_is_set(tmp_path: Path) -> None:
    canary = "canary-of-a-real-provider"
    with start_demo(tmp_path, DEEPSEEK_API_KEY=canary) as running:
        routes = running.desk.catalog.routes()
        enabled = routes[routes["enabled"]]
        assert set(enabled[enabled["model"] == "deepseek-chat"]["provider"]) == {"deepseek"}
        assert set(enabled[enabled["model"] == "gpt-4o-mini"]["provider"]) == {"simulated"}
    kept = b"".join(path.read_bytes() for path in (tmp_path / "var").iterdir())
    assert canary.encode() not in kept
    assert canary not in running.printed


@pytest.mark.drill
def test_its_database_can_be_made_before_it_and_is_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "demo", "--prepare"]
    told = {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_")} | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    made = json.loads((tmp_path / "var" / "demo.json").read_text())
    with start_demo(tmp_path) as demo:
        assert (demo.key, demo.password) == (made["api_key"], f"password {made['password']}")
        assert json.loads(paste(demo.curls[0]))["model"] == "deepseek-chat"
