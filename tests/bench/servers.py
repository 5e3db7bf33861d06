"""Server processes of the benchmark: how one is started, watched until it is ready, measured and ended.

What runs inside is named by its command line; the gateway's own preparation is in `paid`.
"""

import os
import signal
import socket
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

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 30


class ServerFailed(Exception):
    """A server of the benchmark did not come up; the message ends with its last output."""


@dataclass(frozen=True)
class Server:
    """A running server with its children.

    `senders` are the keys and models that the load uses against it, for each manner of the provider.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]
    senders: Mapping[str, list[tuple[str, str]]]

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
    arguments: Sequence[str],
    *,
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    senders: Mapping[str, list[tuple[str, str]]] | None = None,
    ready_path: str = "/healthz",
) -> Server:
    """Run `python -m …` and come back when it answers on its port."""
    log_path = folder / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, stdout=log, stderr=log, env=clean_environment(environment)
        )
    if name != "provider":
        pin(process.pid, measured=True)
    deadline = time.monotonic() + READY_WITHIN_S
    while not answers(f"http://127.0.0.1:{port}{ready_path}"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise ServerFailed(f"{name} is not ready:\n{log_path.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    return Server(name, port, process, senders or {})


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_provider(folder: Path) -> Server:
    port = free_port()
    arguments = ["tests.bench.provider", str(port)]
    return start_server("provider", arguments, port=port, folder=folder, ready_path="/control/held")


def start_floor(folder: Path, provider: Server) -> Server:
    port = free_port()
    arguments = ["tests.bench.floor", str(port), f"http://127.0.0.1:{provider.port}"]
    senders = {manner: [("no key", manner)] for manner in MANNERS}
    return start_server("floor", arguments, port=port, folder=folder, senders=senders)
