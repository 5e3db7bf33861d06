"""Owns the stage on which real programs play: aliases that say, obey and fail, keys of every kind, and the books afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tomllib
from asyncio.subprocess import PIPE
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests import installs
from tests.clients.shelf import Shelf
from tests.rig import Customer, Price, Rig

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
MOST_S = 180
PINS: dict[str, list[str]] = tomllib.loads((HERE / "pins.toml").read_text())
MODELS = {
    "says": "sim:words=12",
    "obeys": "sim:words=12,obey",
    "json": "sim:words=4,json",
    "cut": "sim:words=6,cut=3,gap_ms=10",
    "broken": "sim:status=500",
    "long": "sim:status=400,error_code=context_length_exceeded",
}
# What the message of each refusal tells its reader to do.
WORDS = {
    "400": "Simulated failure",
    "401": "created in the dashboard",
    "402": "Top up in the dashboard",
    "403": "GET /v1/models lists",
    "404": "chat completions",
    "429": "Try again in",
    "502": "not charged",
}
# A program sees nothing of what its user has set up for others.
_FOREIGN = ("OPENAI_", "GATEWAY_", "LLM_", "ANTHROPIC_", "OPS_", "STRIPE_", "AIDER_", "CLINE_", "QWEN_", "npm_")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.out[-6_000:]}\n{self.err[-6_000:]}"


class Stage(Shelf):
    """The shelf of the plays. Each play has a customer of its own, so that its books are its own as well."""

    def __init__(self, rig: Rig, models: dict[str, str] | None = None) -> None:
        super().__init__(rig, models or MODELS)
        self.poor = rig.customer(credits="0", models=list(self.alias.values()))
        self.limited = rig.customer(models=list(self.alias.values()))
        rig.desk.limits.set(key=self.limited.key_id, unit="requests", quota=1, window_s=360)
        rig.settle_feed()

    async def use_up(self) -> None:
        """From now on, and for six minutes, the limited key gets 429."""
        await self.rig.chat(self.limited, self.alias["says"])
        assert (await self.rig.chat(self.limited, self.alias["says"])).status == 429

    def actor(self, **more: str) -> tuple[Customer, dict[str, str]]:
        """A customer for one play, and the aliases it may call: those of the shelf, and `more` by their upstream models."""
        alias = self.alias | {name: self.rig.alias(model) for name, model in more.items()}
        return self.rig.customer(models=list(alias.values())), alias

    def scene(self, customer: Customer, alias: dict[str, str]) -> dict[str, Any]:
        url = self.rig.url + "/v1"
        refusals = {
            "400": {"model": alias["long"]},
            "401": {"key": "sk-canary-0123456789abcdef"},
            "402": {"key": self.poor.key},
            "403": {"model": "no-such-model"},
            "404": {"base_url": url + "/nowhere"},
            "429": {"key": self.limited.key},
            "502": {"model": alias["broken"]},
        }
        return {"base_url": url, "key": customer.key, "alias": alias, "refusals": refusals}

    def assert_books(self, customer: Customer, *, served: int | None = None) -> list[dict[str, Any]]:
        """Charged once for each answer, at the price of the tokens that were used; nothing else. The records."""
        records = self.rig.records(customer)
        answered = [record for record in records if record["outcome"] == "served"]
        assert served is None or len(answered) == served
        assert not any(record["estimated"] for record in answered)
        prices = [Price().charge_nano(int(one["fresh_tokens"]), int(one["output_tokens"])) for one in answered]
        assert [int(record["charge_nano"]) for record in answered] == prices
        assert self.rig.spent_nano(customer) == sum(prices) > 0
        assert self.rig.held_nano(customer) == 0
        assert not any(int(record["charge_nano"]) for record in records if record["outcome"] != "served")
        return answered


async def perform(
    command: Sequence[str | Path], folder: Path, *, path: Path | None = None, stdin: str = "",
    until: Coroutine[Any, Any, None] | None = None, **environment: str,
) -> Ended:  # fmt: skip
    """A program to its end, or only until `until` is over; at home in `folder`, without a screen and its user's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    home = {"HOME": str(folder), "PWD": str(folder), "CI": "true", "NO_COLOR": "1", "TERM": "dumb"}
    searched = f"{path}:{inherited['PATH']}" if path else inherited["PATH"]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=folder, env={**inherited, **home, "PATH": searched, **environment}, stdin=PIPE, stdout=PIPE,
        stderr=PIPE, start_new_session=True, limit=2**24,
    )  # fmt: skip
    talk = asyncio.ensure_future(process.communicate(stdin.encode()))
    enough = asyncio.ensure_future(until or asyncio.sleep(MOST_S))
    await asyncio.wait({talk, enough}, return_when=asyncio.FIRST_COMPLETED)
    enough.cancel()
    if not talk.done():
        # The group: some are a script that started the program itself.
        os.killpg(process.pid, signal.SIGKILL)
    out, err = await talk
    end_daemons(folder)
    return Ended(process.returncode or 0, out.decode(), err.decode())


def end_daemons(folder: Path) -> None:
    """Some programs leave a helper running behind them; it is known by its home."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") == str(folder):
                process.kill()


# Libraries: the pins and the file of each for Python (the newest official library is among the test tools), file and
# package for Node.
PYTHON = {
    "openai 1": ("old_openai", "openai_sdk.py"),
    "openai 2": ("libraries", "openai_sdk.py"),
    "openai 3": ("", "openai_sdk.py"),
    "langchain": ("libraries", "langchain_openai_sdk.py"),
    "llamaindex": ("libraries", "llamaindex.py"),
    "litellm": ("libraries", "litellm_sdk.py"),
}
NODE = {
    "openai 4 for node": ("openai_sdk.mjs", "openai4"),
    "openai 5 for node": ("openai_sdk.mjs", "openai5"),
    "openai 6 for node": ("openai_sdk.mjs", "openai6"),
    "openai 7 for node": ("openai_sdk.mjs", "openai"),
    "ai sdk": ("ai_sdk.mjs", ""),
}


async def play(library: str, scene: dict[str, Any], folder: Path) -> Any:
    """What the user of this library would see of the scene; `folder` is the program's own."""
    folder.mkdir(parents=True, exist_ok=True)
    ended = await perform(_program(library, folder), folder, SCENE=json.dumps(scene))
    assert ended.code == 0, ended
    return json.loads(ended.out.splitlines()[-1])


def _program(library: str, folder: Path) -> list[str | Path]:
    if library in PYTHON:
        pins, file = PYTHON[library]
        python = installs.python_folder(*PINS[pins]) / "venv/bin/python" if pins else Path(sys.executable)
        return [python, PROGRAMS / file]
    file, package = NODE[library]
    # Node looks for packages beside the file that wants them.
    (folder / "node_modules").symlink_to(installs.node_folder(*PINS["node"]) / "node_modules")
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, folder)
    return ["env", f"OPENAI_PACKAGE={package}", "node", folder / file]
