"""Owns copies of a SQLite database: made while the server writes, and put in its place. PostgreSQL has its own programs.

A copy is one snapshot, whatever is written meanwhile. What is put back never meets the write-ahead log of what was there
before: SQLite would take that for its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from models.database import DatabaseUrl, file_lock, open_database
from models.errors import SetupError
from models.schema import check_not_newer

_PARTS = ("", "-wal", "-shm")


def back_up(url: DatabaseUrl, target: Path) -> int:
    """Copy the database to `target`, a new file, and return its bytes. It is there whole or not at all.

    Raises SetupError for PostgreSQL, for a database that is not there, and never overwrites.
    """
    source = _path_of(url, f"pg_dump --format=custom --file={target} URL")
    if not source.exists():
        raise SetupError(f"there is no database at {source}; GATEWAY_DATABASE_URL says where it is")
    if target.exists():
        raise SetupError(f"{target} exists; name a file that does not")
    with _copied(source, target) as draft:
        # A rename would replace what has come to be there in the meantime. Some disks know no second name, though.
        try:
            os.link(draft, target)
        except FileExistsError:
            raise
        except OSError:
            draft.rename(target)
    return target.stat().st_size


def restore(url: DatabaseUrl, source: Path, aside: str) -> Path | None:
    """Put the copy at `source` in the database's place, and return where what was there is now: beside it, named by `aside`.

    Raises SetupError, with nothing changed, for PostgreSQL, a copy that is none or was made by a newer version, and while a
    server runs.
    """
    path = _path_of(url, f"pg_restore --exit-on-error --no-owner --no-privileges --dbname=URL {source}")
    if source.absolute() == path:
        raise SetupError(f"{source} is the database itself; name a copy of it")
    if not source.exists():
        raise SetupError(f"there is no back-up at {source}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(file_lock(url.lock_path))
        except BlockingIOError:
            raise SetupError(f"a server is running on {path}; stop it first") from None
        draft = held.enter_context(_copied(source, path))
        # Looked at in the copy: opening the back-up itself would change it.
        asyncio.run(_check(draft, str(source)))
        kept = _put_aside(path, aside)
        if kept is not None:
            shutil.copymode(kept, draft)
        # So that the server may open what root has restored.
        owner = (kept or path.parent).stat()
        with contextlib.suppress(PermissionError):
            for file in (draft, url.lock_path):
                os.chown(file, owner.st_uid, owner.st_gid)
        draft.rename(path)
        return kept


async def _check(draft: Path, name: str) -> None:
    # A path is no URL: it may have a "?" or "%" in it.
    async with open_database(DatabaseUrl(str(draft), "sqlite", draft), pool=1) as copy:
        if not await copy.rows("SELECT 1 FROM sqlite_master WHERE name = 'tortoise_migrations'"):
            raise SetupError(f"{name} is no database of this program")
        await check_not_newer(copy, name=name)


def _path_of(url: DatabaseUrl, instead: str) -> Path:
    if url.path is None:
        raise SetupError(f"GATEWAY_DATABASE_URL: is PostgreSQL, which has programs of its own for it: {instead}")
    return url.path


def _put_aside(path: Path, aside: str) -> Path | None:
    """Where its files are now, by the first of them. A killed restore leaves a log alone, which may hold the last commits."""
    moved: Path | None = None
    for part in _PARTS:
        to = path.with_name(f"{path.name}.{aside}{part}")
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + part).rename(to)
            moved = moved or to
    return moved


@contextlib.contextmanager
def _copied(source: Path, target: Path) -> Iterator[Path]:
    """A copy beside `target`, synced, for renaming; gone if it was not. `target`'s folder is synced afterwards.

    In one step: in smaller ones SQLite begins again whenever somebody has written in between.
    """
    draft = target.absolute().with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
        reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        with contextlib.closing(reading), contextlib.closing(sqlite3.connect(draft)) as writing:
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        yield draft
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise SetupError(f"{target}: cannot be written: {error.strerror or error}") from None
    except sqlite3.DatabaseError as error:
        raise SetupError(f"{source}: cannot be copied: {error}") from None
    finally:
        for part in _PARTS:
            draft.with_name(draft.name + part).unlink(missing_ok=True)
