"""Owns a Prometheus of a test's own: the project's rules in a hurry, read from a real server, asked by its API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.rig import ROOT
from tests.servers import free_port, missing

RULES = ROOT / "docker" / "prometheus" / "alerts.yml"
EVERY = "500ms"
WINDOW_S = 20
READY_WITHIN_S = 30


def in_a_hurry() -> dict[str, Any]:
    """The rules as they are, but that they look back for seconds, and do not wait before they fire."""
    document: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for rule in document["groups"][0]["rules"]:
        rule.pop("for", None)
        rule["expr"] = re.sub(r"\[\w+\]", f"[{WINDOW_S}s]", rule["expr"])
    return document


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def firing(self) -> set[str]:
        """The names of the alerts whose expression is true now."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def value(self, query: str) -> float:
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def ask(self, what: str, **asked: str) -> Any:
        query = f"?{urllib.parse.urlencode(asked)}" if asked else ""
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    async def fires(self, *names: str, within_s: float = 40) -> None:
        await self._wait(lambda firing: set(names) <= firing, f"{names} do not fire", within_s)

    async def is_quiet(self, *names: str, within_s: float = 60) -> None:
        """None of these is true; without names, nothing at all."""
        await self._wait(
            lambda firing: not (firing & set(names) if names else firing), f"{names or 'some'} fire", within_s
        )

    async def _wait(self, is_so: Any, otherwise: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not is_so(firing := await asyncio.to_thread(self.firing)):
            assert time.monotonic() < deadline, f"after {within_s} s {otherwise}: {firing}"
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def watching(target: str, folder: Path) -> Iterator[Prometheus]:
    """Started, ready, and it has read the server at `target` (host:port). Skips where it is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        missing("no Prometheus: install prometheus")
        raise AssertionError
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yml").write_text(yaml.safe_dump(in_a_hurry()))
    port = free_port()
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            with contextlib.suppress(OSError):
                if prometheus.value("up") == 1:
                    break
            assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "Prometheus does not read the server"
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
