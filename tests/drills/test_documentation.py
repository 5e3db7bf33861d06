"""The documentation's long ones: real clients set up as its pages say, every page's accessibility, an operator's settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests import installs
from tests.clients.stage import PINS, end_daemons
from tests.dashboard import snippets as doc
from tests.dashboard.browsers import PHONE, accessibility_faults, chromium, run, sign_up, window
from tests.dashboard.snippets import ADDRESSES, DocPage, Snippet, key_of, read_all
from tests.dashboard.visitor import visiting
from tests.rig import Rig, start_rig

pytestmark = pytest.mark.drill
SAID = "Thank you"
# Ranges, so that tomorrow's release of a library is met by this drill and not by a customer; major versions by hand.
LIBRARIES = ("langchain-openai>=1,<2", "llama-index-llms-openai-like<1", "litellm>=1,<2", "llm<1")


@dataclass(frozen=True)
class Reading:
    """The blocks of the documentation as an account with one alias reads them, by id."""

    blocks: dict[str, Snippet]
    key: str
    alias: str

    async def run(self, id_: str, *program: str, folder: Path, **environment: str) -> str:
        return await doc.run(self.blocks[id_].with_key(self.key), *program, folder=folder, **environment)

    def save(self, id_: str, folder: Path) -> None:
        block = self.blocks[id_]
        (folder / block.file).write_text(block.with_key(self.key))


@pytest.fixture
async def reading(rig: Rig) -> Reading:
    async with visiting(rig) as visitor:
        await visitor.sign_up()
        customer, alias = key_of(rig, visitor.email)
        pages = await read_all(visitor)
    blocks = {block.id: block for page in pages.values() for block in page.snippets}
    return Reading(blocks, customer.key, alias)


# ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", ["ask-from-node", "stream-from-node", "ask-with-ai-sdk"])
async def test_node_clients_run_as_documented(reading: Reading, block: str) -> None:
    folder = installs.node_folder("openai@7", "ai@7", "@ai-sdk/openai-compatible@3")
    assert SAID in await reading.run(block, "node", folder=folder)


@pytest.mark.parametrize("block", ["ask-with-langchain", "ask-with-llamaindex", "ask-with-litellm"])
async def test_python_clients_run_as_documented(reading: Reading, block: str) -> None:
    folder = installs.python_folder(*LIBRARIES)
    assert SAID in await reading.run(block, str(folder / "venv/bin/python"), folder=folder)


async def test_llm_runs_as_documented(reading: Reading, tmp_path: Path) -> None:
    programs = installs.python_folder(*LIBRARIES) / "venv/bin"
    reading.save("llm-config", tmp_path)
    said = await reading.run(
        "ask-with-llm", *doc.bash(), folder=tmp_path, LLM_USER_PATH=str(tmp_path), PATH=f"{programs}:/usr/bin:/bin"
    )
    assert SAID in said


@pytest.mark.parametrize(
    ("config", "block"),
    [("", "ask-with-cline"), ("continue-config", "ask-with-continue"), ("opencode-config", "ask-with-opencode"),
     ("", "ask-with-qwen-code")],
)  # fmt: skip
async def test_agents_run_as_documented(reading: Reading, tmp_path: Path, config: str, block: str) -> None:
    programs = installs.node_folder(*PINS["command_lines"]) / "node_modules/.bin"
    if config:
        reading.save(config, tmp_path)
    path = f"{programs}:{os.environ['PATH']}"
    try:
        said = await reading.run(block, *doc.bash(), folder=tmp_path, HOME=str(tmp_path), PWD=str(tmp_path), PATH=path)
    finally:
        end_daemons(tmp_path)
    assert SAID in said


async def test_aider_runs_as_documented(reading: Reading, tmp_path: Path) -> None:
    programs = installs.python_folder(*PINS["aider"]) / "venv/bin"
    reading.save("aider-config", tmp_path)
    said = await reading.run(
        "try-aider", *doc.bash(), folder=tmp_path, HOME=str(tmp_path), PATH=f"{programs}:/usr/bin:/bin"
    )
    assert SAID in said


def test_these_are_all_blocks_that_need_a_client(rig: Rig) -> None:
    """What no drill here runs is run by the quick tests; they know it by its need."""

    async def read() -> dict[str, DocPage]:
        async with visiting(rig) as visitor:
            return await read_all(visitor)

    wanted = {block.id for page in run(read()).values() for block in page.snippets if block.needs}
    source = Path(__file__).read_text()
    quick = {"ask-from-python", "stream-from-python", "read-the-charge-in-python", "back-off"}
    assert {id_ for id_ in wanted if f'"{id_}"' not in source} == set()
    assert quick < wanted


# ── looks and settings ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [None, PHONE], ids=["wide", "narrow"])
def test_every_page_is_accessible_and_fits(
    rig: Rig, browser: Browser, scheme: str, size: dict[str, int] | None
) -> None:
    options = {"viewport": size} if size else {}
    with window(browser, rig, sign_up(rig), color_scheme=scheme, **options) as page:
        for address in ADDRESSES:
            page.goto(address)
            assert accessibility_faults(page) == [], address
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


def test_what_an_operator_has_set_is_what_customers_read(tmp_path: Path) -> None:
    settings = {"BRAND": "Acme <AI>", "CONTACT": "help@acme.test", "SIGNUP": "invite", "DRAIN_S": "0",
                "PUBLIC_URL": "https://api.acme.test"}  # fmt: skip

    async def look(rig: Rig) -> dict[str, DocPage]:
        async with visiting(rig) as visitor:
            return await read_all(visitor)

    with start_rig(tmp_path / "rig", **{f"GATEWAY_{name}": value for name, value in settings.items()}) as rig:
        pages = run(look(rig))
    start, billing = pages["/docs"], pages["/docs/billing"]
    assert "Acme <AI> puts many models" in start.text
    assert "Accounts are made by invitation" in start.sections["account"]
    assert 'href="mailto:help@acme.test"' in start.html
    assert start.settings == {"Base URL": "https://api.acme.test/v1", "API key": "YOUR_API_KEY", "Model": "YOUR_MODEL"}
    assert "we cancel the call to the provider at once" in billing.sections["stopped"]
    assert not re.search(re.escape(rig.url), "".join(page.html for page in pages.values()))
