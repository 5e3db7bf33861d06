"""Real programs with a command line, each doing one task, a file read by a tool or edited; refused; and cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.command_lines import AIDER, CODEX, PROGRAMS, Setup
from tests.clients.stage import WORDS, Ended, Stage
from tests.rig import Customer, Rig

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]
# When its answers break off, a program may give up or try again after pauses. One that takes the end for a pause asks
# hundreds of times in twenty seconds.
WATCHED_S, MOST_ATTEMPTS = 20, 15
# So many run at once: they mostly wait for each other's disk.
AT_ONCE = 4


@dataclass(frozen=True)
class Played:
    """A program's task, its refusal, and its answer that broke off."""

    customer: Customer
    obeyed: Ended
    refused: Ended
    broken: Ended
    calls: list[dict[str, Any]]
    attempts: int


@pytest.fixture(scope="module")
def stage(rig: Rig) -> Iterator[Stage]:
    yield Stage(rig, {"obeys": "sim:words=40,obey,gap_ms=1", "long": "sim:status=400", "broken": "sim:status=500"})
    rig.reconcile()


async def play(stage: Stage, name: str, folder: Path, at_once: asyncio.Semaphore) -> Played:
    program, tag = PROGRAMS[name], name.split(maxsplit=1)[0]
    task, cut = f"sim:words=40,obey,gap_ms=1,tag={tag}", f"sim:words=6,cut=3,tag={tag}"
    customer, alias = stage.actor(task=task, cut=cut)

    async def run(key: str, model: str, at: Path, text: str, **options: Any) -> Ended:
        async with at_once:
            return await program.run(Setup(stage.rig.url + "/v1", key, model), at, text, **options)

    async def watched() -> None:
        await stage.rig.provider.wait(cut, timeout=55)
        await asyncio.sleep(WATCHED_S)

    obeyed, refused, broken = await asyncio.gather(
        run(customer.key, alias["task"], folder / "obeying", program.reads(folder / "obeying")),
        run(stage.poor.key, stage.alias["obeys"], folder / "refused", "Say hello."),
        run(customer.key, alias["cut"], folder / "cut", "Say hello.", until=watched()),
    )
    calls = await stage.rig.provider.calls(task)
    return Played(customer, obeyed, refused, broken, calls, len(await stage.rig.provider.calls(cut)))


@pytest.fixture(scope="module")
def plays(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """What became of each program, by its name."""

    async def perform() -> dict[str, Played]:
        at_once = asyncio.Semaphore(AT_ONCE)
        folders = [tmp_path_factory.mktemp("program") for _ in PROGRAMS]
        played = [play(stage, name, folder, at_once) for name, folder in zip(PROGRAMS, folders, strict=True)]
        return dict(zip(PROGRAMS, await asyncio.gather(*played), strict=True))

    return asyncio.run(perform())


@pytest.fixture(params=PROGRAMS)
def played(plays: dict[str, Played], request: pytest.FixtureRequest) -> Played:
    return plays[request.param]


def test_it_streams_calls_a_tool_and_tells_what_the_tool_said(played: Played) -> None:
    assert played.obeyed.code == 0, played.obeyed
    assert "Thank you for telling me:" in played.obeyed.out, played.obeyed
    assert "lemons are yellow" in played.obeyed.out
    assert all(call["body"]["stream"] and call["state"] == "served" for call in played.calls)
    # The last has what the tool said, under the id that the call had.
    *_, said, result = next(call["body"]["messages"] for call in reversed(played.calls) if call["body"].get("tools"))
    assert "lemons are yellow" in json.dumps(result)
    assert result["tool_call_id"] == said["tool_calls"][0]["id"]


def test_each_of_its_requests_is_charged_once(stage: Stage, played: Played) -> None:
    stage.assert_books(played.customer, served=len(played.calls))


def test_its_user_reads_our_own_words_when_there_are_no_credits(stage: Stage, played: Played) -> None:
    shown = " ".join((played.refused.out + played.refused.err).split())
    assert WORDS["402"] in shown, played.refused


def test_an_answer_that_breaks_off_is_an_error_and_no_endless_loop(played: Played) -> None:
    assert 1 <= played.attempts <= MOST_ATTEMPTS, played.broken
    # Still trying is a failure too, as far as its user can see.
    assert played.broken.code != 0 or "broke off" in played.broken.out + played.broken.err, played.broken


async def test_aider_edits_a_file(stage: Stage, tmp_path: Path) -> None:
    answer = "notes.txt\n```\nlemons are green\n```\n"
    words = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in answer.splitlines(keepends=True))]
    chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    events = [chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in words]
    events += [
        chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        chunk | {"choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 20, "total_tokens": 920}},
    ]
    await stage.script(*(f"data: {json.dumps(event)}\n\n" for event in events), "data: [DONE]\n\n")
    customer, alias = stage.actor()
    setup = Setup(stage.rig.url + "/v1", customer.key, alias["scripted"])
    ended = await AIDER.run(setup, tmp_path / "aider", AIDER.reads(tmp_path))
    assert ended.code == 0, ended
    assert (tmp_path / "aider/notes.txt").read_text() == "lemons are green\n"
    (record,) = stage.assert_books(customer, served=1)
    assert (record["fresh_tokens"], record["output_tokens"]) == (900, 20)


async def test_aider_shows_our_own_words_about_a_key_that_is_none(stage: Stage, tmp_path: Path) -> None:
    """And not about missing credits: it tries a 402 again for a minute, whatever it is told."""
    setup = Setup(stage.rig.url + "/v1", "sk-unknown", stage.alias["obeys"])
    ended = await AIDER.run(setup, tmp_path / "aider", "Say hello.")
    assert WORDS["401"] in " ".join((ended.out + ended.err).split()), ended


async def test_codex_is_told_which_endpoint_there_is(stage: Stage, tmp_path: Path) -> None:
    customer, alias = stage.actor()
    ended = await CODEX.run(
        Setup(stage.rig.url + "/v1", customer.key, alias["obeys"]), tmp_path / "codex", "Say hello."
    )
    assert ended.code != 0
    assert WORDS["404"] in ended.out + ended.err, ended
    assert stage.rig.spent_nano(customer) == 0
