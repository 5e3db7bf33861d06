"""The API held against its own OpenAPI page, by a fuzzer that knows no more than that page: two minutes, ten with LONG=1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.shelf import Shelf
from tests.rig import Rig, start_rig

DRILL_S = 600 if os.environ.get("LONG") else 120


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A rig of its own, so that every line of its log comes from here."""
    with start_rig(tmp_path_factory.mktemp("api-fuzz"), GATEWAY_COOLDOWN_AFTER="1000000") as rig:
        yield Shelf(rig, {"counted": "sim:words=3", "uncounted": "sim:words=3,usage=none"})
        rig.reconcile()


def page_of(rig: Rig, aliases: list[str]) -> dict[str, Any]:
    """The OpenAPI document, in which the models are named, so that most requests get beyond the key's scope."""
    with urllib.request.urlopen(rig.url + "/docs/api/openapi.json", timeout=10) as answer:
        document: dict[str, Any] = json.load(answer)
    document["components"]["schemas"]["ChatCompletionRequest"]["properties"]["model"]["enum"] = aliases
    document["paths"]["/v1/models/{alias}"]["get"]["parameters"][0]["schema"]["enum"] = aliases
    # The page describes the stream as a whole, the fuzzer reads the schema of one event there.
    del document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    return document


@pytest.mark.drill
@pytest.mark.timeout(DRILL_S * 3)
def test_minutes_of_requests_made_from_the_page_find_no_answer_that_it_does_not_foretell(shelf: Shelf) -> None:
    rig = shelf.rig
    rig.desk.credits.grant(shelf.customer.email, credits="100000000", reason="fuzz", grant_key="api-fuzz")
    page = rig.folder / "openapi.json"
    page.write_text(json.dumps(page_of(rig, [shelf.alias["counted"], shelf.alias["uncounted"]])))
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", str(page), "--url", rig.url, "--no-color",
            "--header", f"Authorization: Bearer {shelf.customer.key}", "--max-time", str(DRILL_S), "--checks", "all",
            # What the providers understand is theirs to refuse: most fields pass through unread.
            "--exclude-checks", "negative_data_rejection", "--generation-database", "none",
        ],
        cwd=rig.folder, capture_output=True, text=True, timeout=DRILL_S * 2.5, check=False,
    )  # fmt: skip
    assert done.returncode == 0, "\n".join(line[:400] for line in (done.stdout + done.stderr).splitlines())
    log = rig.server.log.read_text()
    assert "Traceback" not in log, log[-5_000:]
    assert rig.held_nano(shelf.customer) == 0
