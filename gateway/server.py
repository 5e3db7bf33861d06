"""Owns the running of a server process: its lock, socket, logs, and what lives beside it. What it serves: `app.py`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog

from gateway.logs import write_logs
from gateway.misspelled import misspelled
from gateway.settings import Settings
from models.database import DatabaseUrl, file_lock, open_database
from models.environment import variables
from models.errors import DomainError, SetupError
from models.schema import check_schema

if TYPE_CHECKING:
    from sanic import Sanic

BACKLOG = 4096
# Two descriptors a running request: the client's connection and the provider's.
OPEN_FILES = 65_536
FIRST, LAST = 1_000, -1_000
# What running answers have when the main process is gone.
_ORPHAN_S = 2.0
log = structlog.get_logger()


def start_logs(settings: Settings) -> None:
    """Write them from now on, and tell first of what is set and is no setting: another version's, or misspelled."""
    write_logs(settings)
    for name, meant in misspelled(variables()):
        perhaps = {} if meant is None else {"meant": meant}
        log.warning("no setting has this name, it is left out", variable=name, **perhaps)


def run_server(
    settings: Settings,
    host: str,
    port: int,
    *,
    banner: Callable[[str], None] | None = None,
    beside: Callable[[], AbstractAsyncContextManager[None]] | None = None,
    stages: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, after `start_logs`. `banner` gets the address once the server answers.

    `beside` is entered in the server's own event loop before anything else starts, and left after all else has stopped;
    it is for one worker. `stages`: the log tells that it serves, stops and has stopped.

    Raises SetupError when another server has this database, or the port is taken.
    """

    def tell(event: str, **what: object) -> None:
        if stages:
            log.info(event, **what)

    with _only_server(settings.database), _listen(host, port) as listener:
        url = f"http://{_shown_host(host)}:{listener.getsockname()[1]}"

        def announce() -> None:
            if banner is not None:
                banner(url)
            tell("serving", url=url, workers=settings.workers)

        def tell_stopping() -> None:
            tell("stopping: nothing new is admitted, running requests may finish", within_s=settings.shutdown_s)

        _allow_open_files()
        if settings.workers > 1:
            from gateway.workers import Workers, shared_numbers

            with shared_numbers():
                Workers(settings, listener, serve_worker).run(announce, tell_stopping)
        else:
            app = _build_app(settings)
            if beside is not None:
                _run_beside(app, beside())
            app.register_listener(lambda _: announce(), "after_server_start", priority=LAST)
            # The listeners of a stop are run in the reverse order: this is the first of them.
            app.register_listener(lambda _: tell_stopping(), "before_server_stop", priority=LAST)
            _serve(app, listener)
        tell("stopped")


def serve_worker(settings: Settings, listener: socket.socket, pipe: Connection) -> None:
    """One of several workers, in a process of its own; what it says through `pipe` is in `workers.py`."""
    from gateway.workers import ALIVE, BEAT_S, READY

    write_logs(settings)
    app = _build_app(settings)

    # A main process that is frozen reads nothing: what does not fit is left out, and nobody waits for it.
    os.set_blocking(pipe.fileno(), False)

    def tell(word: str) -> None:
        with contextlib.suppress(OSError):
            pipe.send(word)

    async def live(_: Sanic[Any, Any]) -> None:
        loop = asyncio.get_running_loop()
        tell(READY)

        def beat() -> None:
            tell(ALIVE)
            loop.call_later(BEAT_S, beat)

        def orphaned() -> None:
            # Nobody will end this worker, and its port is wanted by the next main process.
            loop.remove_reader(pipe.fileno())
            app.ctx.gateway.shutdown_s = min(settings.shutdown_s, _ORPHAN_S)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(pipe.fileno(), orphaned)
        beat()

    app.register_listener(live, "after_server_start", priority=LAST)
    try:
        _serve(app, listener)
    except DomainError as error:
        tell(str(error))
        sys.exit(2)


def _build_app(settings: Settings) -> Sanic[Any, Any]:
    from gateway.app import create_app

    return create_app(settings)


def _serve(app: Sanic[Any, Any], listener: socket.socket) -> None:
    app.register_listener(_stop_on_signal, "after_server_start", priority=FIRST)
    _quiet_logs()
    try:
        app.run(sock=listener, single_process=True, register_sys_signals=False, motd=False, access_log=False)
    finally:
        # All is settled. An impatient second signal must not turn a clean end into a killed process.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


async def check_setup(settings: Settings, *, newer: bool = False) -> None:
    """Raises SetupError with the remedy for what this server cannot be started with; `newer` as `check_schema` has it."""
    if settings.workers > 1 and settings.database.dialect == "sqlite":
        raise SetupError(
            "GATEWAY_WORKERS: SQLite is served by one worker; use PostgreSQL (GATEWAY_DATABASE_URL) and Redis "
            "(GATEWAY_REDIS_URL) for more, or set it to 1"
        )
    if settings.workers > 1 and not settings.redis_url:
        raise SetupError("GATEWAY_REDIS_URL: required with more than one worker, to share limits")
    async with open_database(settings.database, pool=1) as database:
        await check_schema(database, newer=newer)
    if settings.redis_url:
        from gateway.limits.shared import check_redis

        await check_redis(settings.redis_url)


@contextlib.contextmanager
def _only_server(url: DatabaseUrl) -> Iterator[None]:
    """SQLite has one writer, so one server: the lock is held for the life of this process."""
    if url.path is None:
        yield
        return
    url.path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(file_lock(url.lock_path))
        except BlockingIOError:
            raise SetupError(f"another server is already running on {url.path}; stop it first") from None
        yield


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"port {port} on {host} is in use; choose another with --port (the demo: make run PORT=8001)"
            ) from None
        raise SetupError(
            f"GATEWAY_HOST: cannot listen on {host}:{port}: {error.strerror or error}; name an address of this machine, "
            "as 127.0.0.1 or 0.0.0.0"
        ) from None
    with listener:
        yield listener


def _run_beside(app: Sanic[Any, Any], companion: AbstractAsyncContextManager[None]) -> None:
    async def enter(_: Sanic[Any, Any]) -> None:
        await companion.__aenter__()

    async def leave(_: Sanic[Any, Any]) -> None:
        await companion.__aexit__(None, None, None)

    # Sanic runs the listeners of a stop in the reverse order, so the same priority makes this the last of them.
    app.register_listener(enter, "before_server_start", priority=FIRST)
    app.register_listener(leave, "after_server_stop", priority=FIRST)


def _stop_on_signal(app: Sanic[Any, Any]) -> None:
    """The first signal begins the graceful stop, further ones change nothing.

    Sanic's own handlers stop the loop again when a signal is repeated, in the middle of the drain, which cuts it short.
    """
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if not seen:
            app.loop.call_soon_threadsafe(stop)
        seen.append(number)

    def stop() -> None:
        # Until then another loop run is under way, that of the start, and would swallow the stop.
        if app.state.is_running:
            app.stop(terminate=False)
        else:
            app.loop.call_later(0.01, stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)


def _shown_host(host: str) -> str:
    """How a client on this machine writes the address."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{local}]" if ":" in local else local


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _quiet_logs() -> None:
    """Sanic tells of every step of its start; and a refusal of ours is one line, without the traceback it adds."""
    for name in ("sanic.root", "sanic.server"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("sanic.error").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], DomainError))
    )
