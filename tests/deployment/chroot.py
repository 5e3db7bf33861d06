"""Runs the very steps of `docker/Dockerfile` in clean folders, where no engine is at hand: by hand, as root, in minutes.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm BASE
    python -m tests.deployment.chroot BASE WORK gateway        (or notebooks)

`BASE` stands for the base image. A stage is a copy of the one it is from, in `WORK`. Then the image's own command is started as
its own user, in a network of its own, on a SQLite database, and its own health check has to pass.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.deployment.dockerfile import Instruction, Stage, stages
from tests.rig import ROOT

HEALTHY_WITHIN_S = 60
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHROOT = shutil.which("chroot", path=PATH) or "chroot"
# What the builder's machine lends to every step: its names, its certificates, and how it reaches the package index.
LENT = ("/etc/resolv.conf", "/etc/ssl", "/proc", "/dev")


class Image:
    """A stage that was built: its folder and what its instructions leave for running it."""

    def __init__(self, folder: Path, base: Image | None) -> None:
        self.folder = folder
        self.environment = dict(base.environment) if base else {"PATH": PATH}
        self.user = base.user if base else "0:0"
        self.place = base.place if base else "/"
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []

    def command_line(self, *words: str, **environment: str) -> list[str]:
        given = {**self.environment, **environment}
        inside = 'cd "$1" && shift && exec "$@"'
        return ["env", "-i", *(f"{k}={v}" for k, v in given.items()), CHROOT, f"--userspec={self.user}", str(self.folder),
                "/bin/sh", "-c", inside, "sh", self.place, *words]  # fmt: skip


def build(target: str, base: Path, work: Path) -> Image:
    """The target and every stage that it needs, in the file's order. Raises CalledProcessError for a step that fails."""
    images: dict[str, Image] = {}
    wanted = _needed(target)
    for stage in stages().values():
        if stage.name not in wanted:
            continue
        from_stage = images.get(stage.base)
        folder = work / stage.name
        print(f"── {stage.name} from {stage.base}", flush=True)
        subprocess.run(["cp", "-a", "--", from_stage.folder if from_stage else base, folder], check=True)
        images[stage.name] = Image(folder, from_stage)
        _follow(stage, images[stage.name], images)
    return images[target]


def _needed(name: str) -> set[str]:
    if name not in stages():
        return set()
    stage = stages()[name]
    others = {stage.base, *(one.options.get("from", "") for one in stage.instructions)}
    return {name}.union(*map(_needed, others))


def _follow(stage: Stage, image: Image, images: dict[str, Image]) -> None:
    lent = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for one in stage.instructions:
        print(f"   {one.verb} {one.rest[:110]}", flush=True)
        match one.verb:
            case "ENV":
                image.environment |= dict(
                    word.replace("$PATH", image.environment["PATH"]).split("=", 1) for word in one.words
                )
            case "WORKDIR":
                image.place = one.rest
                (image.folder / one.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = one.rest
            case "RUN":
                with _lending(image.folder):
                    subprocess.run(image.command_line("/bin/sh", "-c", one.rest, **lent), check=True)
            case "COPY":
                _copy(image, one.words, images.get(one.options.get("from", "")), one.options.get("chown"))
            case "ENTRYPOINT":
                image.entrypoint = one.words
            case "CMD":
                image.command = one.words
            case "HEALTHCHECK":
                image.health = Instruction("CMD", {}, one.rest.removeprefix("CMD ").strip()).words


def _copy(image: Image, words: list[str], other: Image | None, owner: str | None) -> None:
    *sources, target = words
    to = image.folder / (target if target.startswith("/") else f"{image.place}/{target}").lstrip("/")
    for source in sources:
        path = (other.folder / source.lstrip("/")) if other else ROOT / source
        place = to / path.name if target.endswith("/") else to
        if path.is_dir():
            shutil.copytree(path, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, place)
        if owner:
            subprocess.run(
                [CHROOT, image.folder, "chown", "-R", owner, "/" + str(place.relative_to(image.folder))], check=True
            )


@contextlib.contextmanager
def _lending(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as lent:
        for path in LENT:
            there = folder / path.lstrip("/")
            if Path(path).is_dir():
                there.mkdir(parents=True, exist_ok=True)
            else:
                there.touch()
            subprocess.run(["mount", "--bind", path, there], check=True)
            lent.callback(subprocess.run, ["umount", there], check=True)
        yield


def check(image: Image) -> None:
    """The image's command runs as its user and becomes healthy; a gateway is migrated first, and asked for its page."""
    with _lending(image.folder):
        alone = ["unshare", "--net", "sh", "-c", "ip link set lo up; sleep infinity"]
        keeper = subprocess.Popen(alone)
        inside = ["nsenter", f"--net=/proc/{keeper.pid}/ns/net"]
        server = None
        try:
            if image.entrypoint == ["gateway"]:
                subprocess.run(image.command_line("gateway", "migrate"), check=True)
            server = subprocess.Popen([*inside, *image.command_line(*image.entrypoint, *image.command)])
            deadline = time.monotonic() + HEALTHY_WITHIN_S
            while subprocess.run(
                [*inside, *image.command_line(*image.health)], stderr=subprocess.DEVNULL, check=False
            ).returncode:
                if time.monotonic() > deadline or server.poll() is not None:
                    sys.exit("the image did not get healthy")
                time.sleep(0.5)
            who = subprocess.run(
                ["ps", "-o", "uid=,gid=,args=", "-p", str(server.pid)], capture_output=True, text=True, check=False
            )
            print("healthy:", who.stdout.strip(), flush=True)
            if image.entrypoint == ["gateway"]:
                subprocess.run(image.command_line("gateway", "reconcile"), check=True)
        finally:
            if server is not None:
                server.terminate()
                print("ended with", server.wait(90), flush=True)
            keeper.kill()
            keeper.wait()


if __name__ == "__main__":
    base, work, target = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    work.mkdir(parents=True)
    check(build(target, base, work))
