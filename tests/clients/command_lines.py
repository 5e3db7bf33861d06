"""Owns how each program with a command line is set up and started: as the documentation says, in a home folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import installs
from tests.clients.stage import PINS, Ended, perform


@dataclass(frozen=True)
class Setup:
    """Where a program is to ask, and for what."""

    base_url: str
    key: str
    model: str


@dataclass(frozen=True)
class Program:
    """`reads` orders it to read `notes.txt` of its folder; `start` sets it up and runs it with a text."""

    reads: Callable[[Path], str]
    start: Callable[[Setup, Path, str], list[str | Path]]
    installed: Callable[[], Path]
    # It takes its text from there, and not as a word of its command.
    by_stdin: bool = False

    async def run(self, setup: Setup, folder: Path, text: str, **options: Any) -> Ended:
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("lemons are yellow\n")
        command = self.start(setup, folder, text)
        stdin = text if self.by_stdin else ""
        return await perform(command, folder, path=self.installed(), stdin=stdin, **options, DO_NOT_TRACK="1")


def _node() -> Path:
    return installs.node_folder(*PINS["command_lines"]) / "node_modules/.bin"


def _python(pins: str) -> Callable[[], Path]:
    return lambda: installs.python_folder(*PINS[pins]) / "venv/bin"


def _order(tool: str, **arguments: object) -> str:
    return f"CALL {tool} {json.dumps(arguments)}"


def _start_aider(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    config = {"openai-api-base": setup.base_url, "openai-api-key": setup.key, "model": f"openai/{setup.model}"}
    (folder / ".aider.conf.yml").write_text(yaml.safe_dump(config))
    # It writes the whole of a file that it changes.
    return [
        "aider", "--no-git", "--no-check-update", "--no-show-model-warnings", "--no-analytics", "--yes-always",
        "--edit-format", "whole", "--message", text, "notes.txt",
    ]  # fmt: skip


def _start_cline(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    sign_in = ["cline", "auth", "-p", "openai-compatible", "-k", setup.key, "-m", setup.model, "-b", setup.base_url]
    return ["bash", "-euc", '"${@:2}" && exec cline --auto-approve true "$1"', "bash", text, *sign_in]


def _start_codex(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    (folder / ".codex").mkdir()
    (folder / ".codex/config.toml").write_text(
        f'model = "{setup.model}"\nmodel_provider = "gateway"\n[model_providers.gateway]\nname = "Gateway"\n'
        f'base_url = "{setup.base_url}"\nenv_key = "GATEWAY_KEY"\nwire_api = "responses"\n'
    )
    return ["env", f"GATEWAY_KEY={setup.key}", "codex", "exec", "--skip-git-repo-check", text]


def _start_continue(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    model = {
        "name": setup.model, "provider": "openai", "model": setup.model, "apiBase": setup.base_url, "apiKey": setup.key,
        "useResponsesApi": False, "roles": ["chat", "edit", "apply"], "capabilities": ["tool_use"],
    }  # fmt: skip
    config = {"name": "My models", "version": "0.0.1", "schema": "v1", "models": [model]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return ["env", "CONTINUE_TELEMETRY_ENABLED=0", "cn", "--config", "config.yaml", "--auto", "-p", text]


def _start_llm(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    model = {
        "model_id": "gateway/model", "model_name": setup.model, "api_base": setup.base_url, "api_key_name": "gateway",
        "supports_tools": True,
    }  # fmt: skip
    (folder / "extra-openai-models.yaml").write_text(yaml.safe_dump([model]))
    (folder / "keys.json").write_text(json.dumps({"gateway": setup.key}))
    (folder / "tools.py").write_text('def read(path: str) -> str:\n    "Read."\n    return open(path).read()\n')
    return ["env", f"LLM_USER_PATH={folder}", "llm", "-m", "gateway/model", "--functions", "tools.py", text]


def _start_opencode(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Gateway",
        "options": {"baseURL": setup.base_url, "apiKey": setup.key},
        "models": {setup.model: {"name": setup.model}},
    }
    model = f"gateway/{setup.model}"
    config = {
        "provider": {"gateway": provider},
        "model": model,
        "small_model": model,
        "autoupdate": False,
        "share": "disabled",
    }
    (folder / "opencode.json").write_text(json.dumps(config))
    return ["opencode", "run", "-m", model]


def _start_qwen(setup: Setup, folder: Path, text: str) -> list[str | Path]:
    (folder / ".qwen").mkdir()
    (folder / ".qwen/settings.json").write_text(json.dumps({"privacy": {"usageStatisticsEnabled": False}}))
    return [
        "env", f"OPENAI_BASE_URL={setup.base_url}", f"OPENAI_API_KEY={setup.key}", f"OPENAI_MODEL={setup.model}",
        "qwen", "--auth-type", "openai", "--yolo", text,
    ]  # fmt: skip


PROGRAMS = {
    "cline": Program(lambda at: _order("read_files", files=[{"path": f"{at}/notes.txt"}]), _start_cline, _node),
    "continue": Program(lambda at: _order("Read", filepath=f"{at}/notes.txt"), _start_continue, _node),
    "llm": Program(lambda at: _order("read", path=f"{at}/notes.txt"), _start_llm, _python("libraries")),
    "opencode": Program(lambda at: _order("read", filePath=f"{at}/notes.txt"), _start_opencode, _node, by_stdin=True),
    "qwen code": Program(lambda at: _order("read_file", file_path=f"{at}/notes.txt"), _start_qwen, _node),
}
# It has no tools; it edits a file by what the model says.
AIDER = Program(lambda _: "Make the lemons green.", _start_aider, _python("aider"))
# It has no chat completions any more.
CODEX = Program(lambda _: "Say hello.", _start_codex, _node)
