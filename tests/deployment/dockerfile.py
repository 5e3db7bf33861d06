"""Owns reading `docker/Dockerfile`: its stages, each with its instructions in order."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

from tests.rig import ROOT

PATH = ROOT / "docker" / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """`RUN …`: its verb, its `--options`, and the rest as it stands."""

    verb: str
    options: dict[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        """Those of a JSON array, or of a line."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def stages() -> dict[str, Stage]:
    """By name, in order; the last one is what is built when none is named."""
    text = re.sub(r"^\s*#.*\n", "", PATH.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(str.strip, text.splitlines()):
        verb, _, rest = line.strip().partition(" ")
        options = {}
        while option := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            options[option[1]] = option[2]
            rest = rest[option.end() :]
        if verb == "FROM":
            base, _, name = rest.split()
            stage = found[name] = Stage(name, base)
        else:
            stage.instructions.append(Instruction(verb, options, rest.strip()))
    return found
