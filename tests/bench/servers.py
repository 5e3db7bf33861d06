"""Server processes of the benchmark: how one is started, watched until it is ready, measured and ended.

What runs inside is named by its command line; the gateway's own preparation is in `paid`.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.provider import MANNERS
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 30
Senders = Mapping[str, list[tuple[str, str]]]


class ServerFailed(Exception):
    """A server of the benchmark did not come up; the message ends with its last output."""


@dataclass(frozen=True)
class Server:
    """A running server with its children.

    `senders` are the keys and models that the load uses against it, for each manner of the provider; `headers` are what
    it wants to read beside them; `pages_per_s` is how many pages of its dashboard are opened meanwhile.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]
    senders: Senders
    headers: Mapping[str, str]
    pages_per_s: float = 0

    def tree(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def cpu_s(self) -> float:
        """Processor time that the whole process tree has used so far, in user and system mode."""
        return float(sum(times.user + times.system for times in (process.cpu_times() for process in self.tree())))

    def rss_mib(self) -> float:
        return float(sum(process.memory_info().rss for process in self.tree()) / 2**20)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    senders: Senders | None = None,
    headers: Mapping[str, str] | None = None,
    ready_path: str = "/healthz",
    ready_word: bytes = b"",
    ready_within_s: float = READY_WITHIN_S,
    pinned: bool = True,
) -> Server:
    """Run a command and come back when it answers on its port, and has said `ready_word` before.

    `environment` is all that it gets; ours if none is given.
    """
    log_path = folder / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment or clean_environment())
    if pinned:
        pin(process.pid, measured=True)
    deadline = time.monotonic() + ready_within_s
    while ready_word not in log_path.read_bytes() or not answers(f"http://127.0.0.1:{port}{ready_path}"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise ServerFailed(f"{name} is not ready:\n{log_path.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    return Server(name, port, process, senders or {}, headers or {})


def module(*arguments: str) -> list[str]:
    """The command that runs a module of ours with this Python."""
    return [sys.executable, "-m", *arguments]


def pin(pid: int, *, measured: bool) -> None:
    """Give the measured server the first core, and all the others the rest, where the system can.

    Otherwise both servers are moved about between cores by the load itself, and the ratios swing by a third.
    """
    process = psutil.Process(pid)
    cores = list(range(psutil.cpu_count() or 1))
    if len(cores) > 1 and hasattr(process, "cpu_affinity"):
        process.cpu_affinity(cores[:1] if measured else cores[1:])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def clean_environment(additions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without the settings of somebody's real gateway."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPS_"))}
    return {**inherited, **(additions or {})}


def start_provider(folder: Path) -> Server:
    port = free_port()
    command = module("tests.bench.provider", str(port))
    return start_server("provider", command, port=port, folder=folder, ready_path="/control/held", pinned=False)


def start_floor(folder: Path, provider: Server, *, pinned: bool = True) -> Server:
    port = free_port()
    command = module("tests.bench.floor", str(port), f"http://127.0.0.1:{provider.port}")
    senders = {manner: [("no key", manner)] for manner in MANNERS}
    return start_server("floor", command, port=port, folder=folder, senders=senders, pinned=pinned)
