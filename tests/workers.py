"""Owns a look at the processes of a server: which of them serve, a line to each, and what they use."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable

import psutil

FOUND_WITHIN_S = 30
_AT_ONCE = 8


class Workers:
    """The worker processes of the server with this main process; the main process itself where there is only one."""

    def __init__(self, main_pid: int, url: str) -> None:
        self._main = psutil.Process(main_pid)
        self._address = urllib.parse.urlsplit(url)
        self._lines: dict[int, http.client.HTTPConnection] = {}
        self._turns: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._opening = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """Ascending. A worker that has just died is no more among them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return sorted(child.pid for child in self._main.children() if _serves(child)) or [self._main.pid]
        return []

    # ── asking one of them ────────────────────────────────────────────────────────────────────────────────────────

    def ask(
        self,
        pid: int,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        patience_s: float = FOUND_WITHIN_S,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body that this worker answers, whatever the others are doing. One question at a time."""
        with self._turns[pid]:
            line = self._line(pid, patience_s)
            try:
                line.request(method, path, body, headers or {})
                answer = line.getresponse()
                return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            except (http.client.HTTPException, OSError):
                self._drop(pid)
                raise

    def models(self, pid: int, headers: dict[str, str]) -> list[str]:
        """The aliases that this worker lists for a key."""
        _, _, body = self.ask(pid, "GET", "/v1/models", headers=headers)
        return [model["id"] for model in json.loads(body)["data"]]

    def call(self) -> list[int]:
        """Have a line to each of them, for when new connections may be refused; their pids."""
        for pid in self.pids:
            self.ask(pid, "GET", "/healthz")
        return list(self._lines)

    def metrics(self) -> list[str]:
        """What each of them shows, one after the other."""
        return [self.ask(pid, "GET", "/metrics")[2].decode() for pid in self.pids]

    def hang_up(self) -> None:
        for pid in list(self._lines):
            self._drop(pid)

    def _line(self, pid: int, patience_s: float) -> http.client.HTTPConnection:
        """A kept-alive connection that this worker has accepted: found by opening connections until it has taken one."""
        deadline = time.monotonic() + patience_s
        with self._opening:
            return self._find(pid, deadline)

    def _find(self, pid: int, deadline: float) -> http.client.HTTPConnection:
        while pid not in self._lines or self._is_closed(pid):
            assert time.monotonic() < deadline, f"worker {pid} took none of our connections"
            opened = [http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=20)
                      for _ in range(_AT_ONCE)]  # fmt: skip
            for line in opened:
                line.connect()
            for line in opened:
                # Whoever answers has accepted it.
                line.request("GET", "/healthz")
                line.getresponse().read()
            owners = self._owners()
            for line in opened:
                owner = owners.get(line.sock.getsockname())
                if owner is None or owner in self._lines:
                    line.close()
                else:
                    self._lines[owner] = line
        return self._lines[pid]

    def connections(self) -> int:
        """How many the server has with its clients, those from here among them."""
        return len(self._owners())

    def _owners(self) -> dict[tuple[str, int], int]:
        """The worker that has a connection, by the client's address."""
        found = {}
        for pid in self.pids:
            with contextlib.suppress(psutil.Error):
                for connection in psutil.Process(pid).net_connections("tcp"):
                    if connection.raddr and connection.laddr.port == self._address.port:
                        found[tuple(connection.raddr)] = pid
        return found

    def _is_closed(self, pid: int) -> bool:
        """The server closes idle connections, and a worker that died has closed all of them."""
        line = self._lines[pid]
        if line.sock is None:
            self._drop(pid)
            return True
        line.sock.setblocking(False)
        try:
            ended = line.sock.recv(1) == b""
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended:
            self._drop(pid)
        else:
            line.sock.settimeout(20)
        return ended

    def _drop(self, pid: int) -> None:
        self._lines.pop(pid).close()

    # ── hurting one of them ───────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def kill(pid: int) -> None:
        """SIGKILL; gone when this returns."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.kill()
            _wait_until(lambda: not _is_alive(process), 5, f"worker {pid} outlives its SIGKILL")

    @staticmethod
    def freeze(pid: int) -> None:
        psutil.Process(pid).send_signal(signal.SIGSTOP)

    @staticmethod
    def thaw(pid: int) -> None:
        psutil.Process(pid).send_signal(signal.SIGCONT)

    def thaw_all(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.thaw(pid)

    # ── what they use ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def rss_mib(self) -> float:
        return sum(psutil.Process(pid).memory_info().rss for pid in self.pids) / 2**20

    @property
    def files(self) -> int:
        return sum(psutil.Process(pid).num_fds() for pid in self.pids)


def gone(processes: list[psutil.Process], within_s: float) -> None:
    """Fails if any of them is alive after that time."""
    _wait_until(lambda: not any(map(_is_alive, processes)), within_s, f"{processes} outlive their main process")


def _serves(process: psutil.Process) -> bool:
    """A child that is no helper of Python's own (`multiprocessing` starts some to tidy up after it)."""
    try:
        return _is_alive(process) and not any("resource_tracker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_until(is_so: Callable[[], bool], within_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)
