"""Owns servers for tests that hurt them: a PostgreSQL cluster of the test's own, to be stopped, frozen and starved.

What the tests share, and leave as they found it, is in `servers`.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.servers import free_port, missing, postgres_programs, server_user


class OwnPostgres:
    """A PostgreSQL server from installed binaries, with its files in a temporary folder. Skips where there are none.

    `fsync` makes a commit survive a crash of the machine; to kill only the server, it may stay off.
    """

    def __init__(self, *, max_connections: int = 100, fsync: bool = False) -> None:
        try:
            self._programs = postgres_programs()
        except LookupError as reason:
            missing(str(reason))
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
        self._user = server_user(self.folder)
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "max_connections": max_connections,
            # Of these few connections, all are for the gateway and for who looks at it.
            "superuser_reserved_connections": 0,
            "fsync": "on" if fsync else "off",
            "max_wal_size": "256MB",
        }
        self._options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "--no-sync")

    # ── its life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Started, and answering."""
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-w", "-o", self._options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: no checkpoint, no goodbye. `fast` ends the sessions, `smart` waits for them."""
        self.thaw()
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def restart(self, mode: str = "immediate") -> None:
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """SIGSTOP to all of it: connections are accepted by the kernel and nothing is said."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self.processes:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ── what a test looks at ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def processes(self) -> list[psutil.Process]:
        """The postmaster and its children; none when it is stopped."""
        try:
            postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
            return [postmaster, *postmaster.children(recursive=True)]
        except (OSError, psutil.Error):
            return []

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(
            command, user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command} failed with exit code {done.returncode}"

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            # One that has just ended needs no signal.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextlib.contextmanager
def own_postgres(*, max_connections: int = 100, fsync: bool = False) -> Iterator[OwnPostgres]:
    """Started, with an empty database `postgres` of its own; gone afterwards."""
    server = OwnPostgres(max_connections=max_connections, fsync=fsync)
    try:
        server.start()
        yield server
    finally:
        server.close()
