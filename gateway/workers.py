"""Owns several worker processes behind one socket: starting them, replacing the dead and the hung, ending them together.

The main process serves nothing itself. Each worker is connected to it by a pipe: the worker says through it that it is
ready, and then that it lives; and a pipe whose other end is gone tells a worker that its main process is. Sanic's own
manager does not bring a dead worker back, and its workers outlive it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

import structlog

from gateway.settings import Settings
from models.errors import SetupError

READY, ALIVE = "ready", "alive"
BEAT_S = 1.0
# A worker whose event loop says nothing for so long serves nobody: it is frozen, or caught in a loop.
HUNG_AFTER_S = 20.0
_READY_WITHIN_S = 60.0
_RESPAWN_PAUSE_S = 1.0
# Beyond the time that running answers have: interrupting, settling, closing.
_ENDED_WITHIN_S = 45.0
log = structlog.get_logger()
Serve = Callable[[Settings, socket.socket, Connection], None]


class _Worker:
    def __init__(self, serve: Serve, settings: Settings, listener: socket.socket) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process: SpawnProcess = spawn.Process(target=serve, args=(settings, listener, theirs), name="worker")
        self.process.start()
        theirs.close()
        self.started_at = self.heard_at = time.monotonic()
        self.ready = False
        self.reason = ""

    def hear(self) -> None:
        """Take in what it says; whatever it is, it lives."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                said = self.pipe.recv()
                self.heard_at = time.monotonic()
                self.ready = self.ready or said == READY
                if said not in (READY, ALIVE):
                    self.reason = str(said)

    @property
    def is_hung(self) -> bool:
        return time.monotonic() - self.heard_at > (HUNG_AFTER_S if self.ready else _READY_WITHIN_S)


class Workers:
    """The main process of `gateway serve --workers N`."""

    def __init__(self, settings: Settings, listener: socket.socket, serve: Serve) -> None:
        self._make: Callable[[], _Worker] = lambda: _Worker(serve, settings, listener)
        self._ended_within_s = settings.shutdown_s + _ENDED_WITHIN_S
        self._workers = [self._make() for _ in range(settings.workers)]
        self._stopping = False
        # Imported when the folder of `shared_numbers` is known, or it would not write there.
        from prometheus_client import CollectorRegistry

        from gateway.metrics import restarts_counter

        self._restarts = restarts_counter(CollectorRegistry())
        self._bell, self._ringer = os.pipe()

    def run(self, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT; `on_stop` is called then, before the workers hear of it.

        Raises SetupError when the first workers cannot start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        announced = False
        try:
            while not self._stopping:
                self._listen(BEAT_S)
                if not announced and all(worker.ready for worker in self._workers):
                    announced = True
                    on_ready()
                self._replace(give_up=not announced)
            on_stop()
        finally:
            self._end()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):
            os.write(self._ringer, b".")

    def _listen(self, within_s: float) -> None:
        began = time.monotonic()
        sources: list[Any] = [self._bell]
        for worker in self._workers:
            sources += [worker.process.sentinel, worker.pipe]
        wait(sources, within_s)
        slept_s = time.monotonic() - began - within_s
        for worker in self._workers:
            if slept_s > BEAT_S:
                # It was the main process that was frozen, or all of this machine: they get their time anew.
                worker.heard_at = time.monotonic()
            worker.hear()

    def _replace(self, *, give_up: bool) -> None:
        for place, worker in enumerate(self._workers):
            if self._stopping:
                return
            worker.hear()
            if worker.process.is_alive() and not worker.is_hung:
                continue
            worker.process.kill()
            worker.process.join()
            worker.hear()
            if give_up:
                raise SetupError(worker.reason or "a worker could not start; its log says why")
            log.error("a worker died, another takes its place", pid=worker.process.pid, exit=worker.process.exitcode)
            self._restarts.inc()
            self._forget(worker)
            if not worker.ready:
                # It will not start for the moment (its database is away): not as fast as the machine can.
                time.sleep(_RESPAWN_PAUSE_S)
            try:
                self._workers[place] = self._make()
            except OSError as error:
                # No memory or no descriptors for the moment; the others serve on, and the next round tries again.
                log.error("a worker cannot be started", error=repr(error))

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._ended_within_s
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                log.error("a worker does not end; it is killed", pid=worker.process.pid)
                worker.process.kill()
                worker.process.join()
            self._forget(worker)

    @staticmethod
    def _forget(worker: _Worker) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        worker.pipe.close()
        mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def shared_numbers() -> Iterator[None]:
    """A folder in which all workers keep what `/metrics` shows."""
    # In memory: they are written through a mapping, and a full disk would end each worker with SIGBUS.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="gateway-metrics-", dir=memory)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
