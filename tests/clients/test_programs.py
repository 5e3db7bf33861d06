"""Real libraries play one scene: answers, streams, tools, pictures, JSON mode, every refusal, and what each of it costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.stage import NODE, PYTHON, WORDS, Stage, play
from tests.rig import Customer, Rig

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]
# Plain and streamed: an answer, an answer to a picture, two answers around a tool; then JSON mode, and an outage that passed.
ANSWERS = 2 * (1 + 1 + 2) + 1 + 1


@dataclass(frozen=True)
class Played:
    """What the library's user saw, and what the provider was asked meanwhile, by the alias's short name."""

    customer: Customer
    seen: dict[str, Any]
    calls: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def stage(rig: Rig) -> Iterator[Stage]:
    yield Stage(rig)
    rig.reconcile()


@pytest.fixture(scope="module", params=[*PYTHON, *NODE])
def played(stage: Stage, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    customer, alias = stage.actor(flaky="sim:words=3,flaky=1")

    async def perform() -> Played:
        await stage.use_up()
        before = {name: len(await stage.calls(name)) for name in stage.upstream}
        folder = tmp_path_factory.mktemp("library")
        seen = await play(request.param, stage.scene(customer, alias), folder)
        return Played(customer, seen, {name: (await stage.calls(name))[count:] for name, count in before.items()})

    return asyncio.run(perform())


@pytest.mark.parametrize("manner", ["plain", "streamed"])
def test_answers_arrive_whole_with_their_usage_and_pictures_reach_the_provider(played: Played, manner: str) -> None:
    calls = [call for call in played.calls["says"] if call["body"].get("stream", False) is (manner == "streamed")]
    for name, call in zip((manner, f"{manner} picture"), calls, strict=True):
        told = played.seen[name]
        assert told["text"] == "Thank you for telling me: Hello there It is a fine day,"
        assert told["usage"] == [call["usage"]["prompt"], call["usage"]["completion"]]
        assert ("data:image/png;base64,iVBORw0KGgo" in json.dumps(call["body"])) is name.endswith("picture")


@pytest.mark.parametrize("manner", ["plain", "streamed"])
def test_a_tool_is_called_with_its_arguments_and_its_result_comes_back(played: Played, manner: str) -> None:
    assert played.seen[f"{manner} tool"]["arguments"] == {"city": "Oslo"}
    assert "rain in Oslo" in played.seen[f"{manner} tool"]["text"]


def test_json_mode_is_asked_of_the_provider_and_read_as_json(played: Played) -> None:
    assert json.loads(played.seen["json"]["text"]) == {"text": "Thank you for telling"}
    (call,) = played.calls["json"]
    assert call["body"]["response_format"]["type"] in ("json_object", "json_schema")


def test_an_outage_that_passes_is_not_even_seen(played: Played) -> None:
    assert played.seen["outage that passes"]["text"] == "Thank you for"


@pytest.mark.parametrize("status", WORDS)
def test_every_refusal_is_shown_to_the_user_in_our_words(played: Played, status: str) -> None:
    for manner in ("plain", "streamed"):
        fault = played.seen[f"{status} {manner}"]
        assert "error" in fault, (manner, fault)
        assert WORDS[status] in fault["text"], (manner, fault)
        assert "canary" not in fault["text"]


def test_a_stream_that_breaks_off_is_never_taken_for_a_whole_answer(played: Played) -> None:
    assert "error" in played.seen["cut"], played.seen["cut"]
    assert "not charged" in played.seen["cut"]["text"]


def test_each_answer_is_charged_once_by_the_tokens_that_were_used(stage: Stage, played: Played) -> None:
    answered = stage.assert_books(played.customer, served=ANSWERS)
    charged = [(int(one["fresh_tokens"]), int(one["output_tokens"])) for one in answered]
    served = [call["usage"] for calls in played.calls.values() for call in calls if call["state"] == "served"]
    # The outage that passes has a model of its own, which said three words.
    assert sorted(charged) == sorted([*((one["prompt"], one["completion"]) for one in served), (5, 3)])
