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
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

_UNREACHABLE = (OSError, asyncpg.PostgresError, TimeoutError)


@contextlib.contextmanager
def fresh_postgres() -> Iterator[str]:
    """The URL of a new, empty database that is dropped afterwards. Skips where there is no PostgreSQL."""
    server = postgres_server()
    name = f"gateway_test_{secrets.token_hex(6)}"
    asyncio.run(execute(server, f'CREATE DATABASE "{name}"'))
    try:
        yield server.rsplit("/", 1)[0] + "/" + name
    finally:
        asyncio.run(execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


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
        asyncio.run(execute(given, "SELECT 1"))
        return given
    usual = "postgres://postgres@127.0.0.1:5432/postgres"
    try:
        asyncio.run(execute(usual, "SELECT 1"))
    except _UNREACHABLE:
        return _start_postgres()
    return usual


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _start_postgres() -> str:
    """A server of our own in a temporary folder, gone when the tests end."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = str(installed[-1]) if installed else shutil.which("initdb")
    if not found:
        raise LookupError("no PostgreSQL: set TEST_POSTGRES_URL, or install postgresql")
    programs = Path(found).parent
    folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = _server_user(folder)
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


def _server_user(folder: Path) -> str | None:
    """PostgreSQL does not run as root; root lends the folder to somebody else."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    shutil.chown(folder, user)
    assert user != getpass.getuser()
    return user


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
