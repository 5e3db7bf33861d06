"""What stands in the documentation to be copied, and the ways to run it just as it stands, with a real key put in."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from gateway.dashboard.documentation import CHAPTERS
from tests.dashboard.visitor import Visitor
from tests.rig import Customer, Rig
from tests.servers import missing

ADDRESSES = [chapter.address for chapter in CHAPTERS]
PLACEHOLDER = "YOUR_API_KEY"


@dataclass(frozen=True)
class Snippet:
    """A block of a page: its id there, bash, python, node, json or yaml, what it needs installed, and its file's name."""

    page: str
    id: str
    kind: str
    needs: str
    file: str
    text: str

    def with_key(self, key: str) -> str:
        return self.text.replace(PLACEHOLDER, key)


@dataclass
class DocPage:
    """A page as a test reads it: its text, snippets, values to paste, links and anchors."""

    path: str
    html: str
    snippets: list[Snippet] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    links: set[str] = field(default_factory=set)
    anchors: list[str] = field(default_factory=list)
    copied: set[str] = field(default_factory=set)
    sections: dict[str, str] = field(default_factory=dict)
    text: str = ""


async def read_all(visitor: Visitor) -> dict[str, DocPage]:
    """The whole documentation as this visitor reads it, by address."""
    answers = await asyncio.gather(*map(visitor.get, ADDRESSES))
    assert {answer.status for answer in answers} == {200}
    return {address: read_page(address, answer.text) for address, answer in zip(ADDRESSES, answers, strict=True)}


def key_of(rig: Rig, email: str) -> tuple[Customer, str]:
    """A key with credits for an account that has just signed up, and the one alias that it may call."""
    alias = rig.alias("sim:words=7,gap_ms=1")
    rig.desk.credits.grant(email, credits="10", reason="test", grant_key=f"docs-{email}")
    issued = rig.desk.keys.issue(email, name="docs", models=[alias])
    return Customer(email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"}), alias


def read_page(path: str, html: str) -> DocPage:
    page = DocPage(path, html)
    reader = _Reader(page)
    reader.feed(html)
    page.text = " ".join(reader.words.split())
    page.sections = {anchor: " ".join(text.split()) for anchor, text in reader.sections.items()}
    return page


class _Reader(HTMLParser):
    def __init__(self, page: DocPage) -> None:
        super().__init__()
        self.page = page
        self.words = ""
        self.sections: dict[str, str] = {}
        self._section = ""
        self._block: dict[str, str | None] | None = None
        self._setting: str | None = None
        self._code: list[str] | None = None
        self._id = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        anchor = given.get("id")
        if anchor:
            self.page.anchors.append(anchor)
            if tag in ("h2", "tr"):
                self._section = anchor
        if tag == "a" and given.get("href"):
            self.page.links.add(given["href"] or "")
        if "data-copy" in given:
            self.page.copied.add(given["data-copy"] or "")
        if "data-setting" in given:
            self._setting = given["data-setting"]
        if tag == "pre" and "data-snippet" in given:
            self._block = given
        if tag == "code" and (self._block is not None or self._setting is not None):
            self._code, self._id = [], anchor or ""

    def handle_data(self, data: str) -> None:
        self._read(data)
        if self._code is not None:
            self._code.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "li", "td", "th", "h1", "h2", "dd", "dt", "pre"):
            self._read(" ")
        if tag != "code" or self._code is None:
            return
        text, self._code = "".join(self._code), None
        if self._block is not None:
            block, self._block = self._block, None
            kind, needs, file = (block.get(f"data-{name}") or "" for name in ("snippet", "needs", "file"))
            self.page.snippets.append(Snippet(self.page.path, self._id, kind, needs, file, text + "\n"))
        elif self._setting is not None:
            self.page.settings[self._setting], self._setting = text, None

    def _read(self, text: str) -> None:
        self.words += text
        self.sections[self._section] = self.sections.get(self._section, "") + text


# ── running ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(text: str, *program: str, folder: Path, **environment: str) -> str:
    """What a program prints that reads `text` from a file behind it. Fails with all it said when it ends badly."""
    suffix = {"node": ".mjs", "bash": ".sh"}.get(Path(program[0]).name, ".py")
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}{suffix}"
    file.write_text(text)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "GATEWAY_", "LLM_"))}
    done = await asyncio.to_thread(
        subprocess.run, [*program, str(file)], cwd=folder, env={**inherited, **environment}, capture_output=True,
        text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def bash() -> tuple[str, ...]:
    if shutil.which("curl") is None:
        missing("there is no curl on this machine")
    return ("bash", "-euo", "pipefail")


def python() -> tuple[str, ...]:
    return (sys.executable,)
