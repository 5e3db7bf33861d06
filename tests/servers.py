"""Owns finding the servers that tests use: named by a variable, on the standard port, or started from binaries."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import getpass
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
import redis

_UNREACHABLE = (OSError, asyncpg.PostgresError, TimeoutError)


@contextlib.contextmanager
def fresh_postgres() -> Iterator[str]:
    """The URL of a new, empty database that is dropped afterwards. Skips where there is no PostgreSQL."""
    server = postgres_server()
    name = f"gateway_test_{secrets.token_hex(6)}"
    execute_now(server, f'CREATE DATABASE "{name}"')
    try:
        yield server.rsplit("/", 1)[0] + "/" + name
    finally:
        execute_now(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def postgres_server() -> str:
    """A URL at which databases may be created. Skips with the reason, or fails where CI is set."""
    try:
        return _find_postgres()
    except LookupError as reason:
        missing(str(reason))


def missing(reason: str) -> None:
    """Something that tests want is not on this machine."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"{reason} (a failure, because CI is set)", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _find_postgres() -> str:
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        execute_now(given, "SELECT 1")
        return given
    usual = "postgres://postgres@127.0.0.1:5432/postgres"
    try:
        execute_now(usual, "SELECT 1")
    except _UNREACHABLE:
        return _start_postgres()
    return usual


def execute_now(url: str, statement: str) -> None:
    """Also for a test whose loop is running: in a thread."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(execute(url, statement))).result()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _start_postgres() -> str:
    """A server of our own in a temporary folder, gone when the tests end."""
    programs = postgres_programs()
    folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = server_user(folder)
    port = free_port()
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    start = [programs / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", options, "start"]
    stop = [programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"]
    for command in ([programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"], start):
        done = subprocess.run(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, timeout=60, check=False)
        if done.returncode:
            raise LookupError(f"no PostgreSQL: {command[0]} failed with exit code {done.returncode}")
    atexit.register(subprocess.run, stop, user=user, cwd=folder, stdout=subprocess.DEVNULL, check=False)
    return f"postgres://postgres@127.0.0.1:{port}/postgres"


def postgres_programs() -> Path:
    """The folder of `initdb` and `pg_ctl`, of the newest version. Raises LookupError."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = str(installed[-1]) if installed else shutil.which("initdb")
    if not found:
        raise LookupError("no PostgreSQL: set TEST_POSTGRES_URL, or install postgresql")
    return Path(found).parent


def postgres_client() -> Path:
    """The folder of `pg_dump` and `psql`. Skips where there are none, or fails where CI is set."""
    found = shutil.which("pg_dump")
    if found:
        return Path(found).parent
    try:
        return postgres_programs()
    except LookupError as reason:
        missing(str(reason))
        raise


def server_user(folder: Path) -> str | None:
    """PostgreSQL does not run as root; root lends the folder to somebody else."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    shutil.chown(folder, user)
    assert user != getpass.getuser()
    return user


def redis_server() -> str:
    """A URL at which keys may be written, under a prefix of one's own. Skips with the reason, or fails where CI is set."""
    try:
        return _find_redis()
    except LookupError as reason:
        missing(str(reason))
        raise


@functools.cache
def _find_redis() -> str:
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        with redis.Redis.from_url(given) as client:
            client.ping()
        return given
    usual = "redis://127.0.0.1:6379/9"
    try:
        with redis.Redis.from_url(usual, socket_timeout=2) as client:
            client.ping()
    except redis.RedisError:
        server = OwnRedis()
        atexit.register(server.close)
        return server.url
    return usual


class OwnRedis:
    """A Redis that a test may freeze, kill and start again, always empty. Raises LookupError where none is installed."""

    def __init__(self, *, started: bool = True) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise LookupError("no Redis: set TEST_REDIS_URL, or install redis-server")
        self._program = program
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        if started:
            self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([self._program, *options], cwd="/", stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """SIGKILL: no chance to say goodbye."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.contextmanager
def own_redis(*, started: bool = True) -> Iterator[OwnRedis]:
    """Skips where no Redis is installed, or fails where CI is set."""
    try:
        server = OwnRedis(started=started)
    except LookupError as reason:
        missing(str(reason))
        raise
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    """A port for a server that cannot choose one itself: below those that connections are given, one of which
    would otherwise take it before the server does."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
