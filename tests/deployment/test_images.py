"""The images: their file is linted, and what it says of user, base, health and contents is what is meant."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.dockerfile import PATH, Stage, stages
from tests.rig import ROOT

IMAGES = ("gateway", "notebooks")


def all_of(stage: Stage) -> list[tuple[str, str]]:
    """Verb and rest of a stage's instructions, those of the stages before it first."""
    before = all_of(stages()[stage.base]) if stage.base in stages() else []
    return before + [(one.verb, one.rest) for one in stage.instructions]


def test_the_linter_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, "--no-color", PATH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_base_is_pinned_and_what_is_built_by_default_is_the_gateway() -> None:
    bases = [stage.base for stage in stages().values() if stage.base not in stages()]
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+-slim-\w+$", base), base
    assert list(stages())[-1] == "gateway"


def test_every_installation_honours_the_constraints() -> None:
    installs = [one.rest for stage in stages().values() for one in stage.instructions if "pip install" in one.rest]
    assert len(installs) == len(IMAGES)
    assert all("--constraint constraints.txt" in install for install in installs)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_knows_when_it_is_well(name: str) -> None:
    said = all_of(stages()[name])
    users = [rest for verb, rest in said if verb == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1]), "by number, and not root"
    (health,) = [rest for verb, rest in said if verb == "HEALTHCHECK"]
    assert "urllib" in health
    assert "curl" not in health
    # The build's own tools and sources stay behind.
    assert not any("pip install" in rest for _, rest in said)


def test_the_builder_is_sent_what_the_images_are_made_of_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for stage in stages().values()
        for one in stage.instructions
        if one.verb == "COPY" and "from" not in one.options
        for source in one.words[:-1]
    }
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)
