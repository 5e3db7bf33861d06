"""Owns settlements that wait on disk while the database is away: one file a worker's life, synced before anybody is told.

A line is a checksum and a command. The worker keeps its file locked; what a dead worker left is replayed by any other of
the same machine. Replaying is safe to repeat, because settling is; so a file goes only after all of it was stored.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import structlog

from models.epochs import Life
from models.money import Capture, Release

Settlement: TypeAlias = Capture | Release
KINDS: dict[str, type[Settlement]] = {"capture": Capture, "release": Release}
_NAMES = {kind: name for name, kind in KINDS.items()}
log = structlog.get_logger()


class Spool:
    """An open, locked spool file. Methods block on the disk: call them in a thread."""

    def __init__(self, path: Path, life: Life, *, create: bool = True) -> None:
        """Raises OSError when the folder cannot be written, and BlockingIOError when another process has this file."""
        if create:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unwanted = 0 if create else os.O_CREAT
        self.path = path
        self.life = life
        # A file object: whoever forgets to close it (a cancelled task) does not keep the lock for ever.
        self._opened = open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags & ~unwanted, 0o600))  # noqa: SIM115
        self._file = self._opened.fileno()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file).st_size:
                self._write([])
                _sync_folder(path.parent)
            found = list(self.settlements())
            self.count = len(found)
            self.oldest_us = min((one.at_us for one in found), default=None)
        except BaseException:
            self._opened.close()
            raise

    def append(self, settlements: Sequence[Settlement]) -> None:
        """Durable when this returns. Raises OSError (a full disk), and then none of it counts."""
        encode = msgspec.json.encode
        self._write([encode([_NAMES[type(one)], msgspec.structs.asdict(one)]) for one in settlements])
        self.count += len(settlements)
        if self.oldest_us is None:
            self.oldest_us = min((one.at_us for one in settlements), default=None)

    def settlements(self) -> Iterator[Settlement]:
        """All that wait, oldest first."""
        for name, *rest in _lines(self.path):
            if name in KINDS:
                yield msgspec.convert(rest[0], KINDS[name])

    def clear(self) -> None:
        """Everything was stored."""
        self.count, self.oldest_us = 0, None
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Let go of the file; removed if nothing waits in it."""
        if not self.count:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._opened.close()

    def _write(self, lines: Sequence[bytes]) -> None:
        size = os.fstat(self._file).st_size
        if not size:
            # In the same write: what is promised never stands without the name of whose it is.
            lines = [msgspec.json.encode(["life", *self.life]), *lines]
        # Begun with a line end, for a write that failed half-way may stand before it.
        text = b"".join(b"\n%08x %b\n" % (zlib.crc32(line), line) for line in lines)
        try:
            while text:
                text = text[os.write(self._file, text) :]
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise


def path_of(folder: Path, life: Life) -> Path:
    return folder / f"{life.epoch_id}-{life.started_us}.spool"


def left_behind(folder: Path, unreadable: list[Path] | None = None) -> Iterator[Spool]:
    """The spools of workers that are gone, each locked by us: close one before you ask for the next.

    Those that only a person can make something of are noted as `unreadable`.
    """
    stay = [] if unreadable is None else unreadable
    for path in sorted(folder.glob("*.spool")):
        try:
            life = next((Life(*rest) for name, *rest in _lines(path) if name == "life"), None)
            spool = Spool(path, life or Life(0, 0), create=False)
        except (BlockingIOError, FileNotFoundError):
            # Its worker lives, or another one has just replayed it.
            continue
        except (OSError, msgspec.MsgspecError) as error:
            log.error("a spool cannot be read, and stays where it is", spool=str(path), error=repr(error))
            stay.append(path)
            continue
        if life is None and spool.count:
            log.error("a spool does not say whose it is, and stays where it is", spool=str(path), count=spool.count)
            stay.append(path)
            spool.close()
        elif life is None or not path.exists():
            # Nothing was ever promised in it, or another worker replayed and removed it while we opened it.
            spool.count = 0
            spool.close()
        else:
            yield spool


def _lines(path: Path) -> Iterator[Any]:
    """The lines that are whole. One that is not was never acknowledged: its worker died while writing it."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        digest, _, text = line.partition(b" ")
        if digest == b"%08x" % zlib.crc32(text):
            yield msgspec.json.decode(text)
        else:
            log.warning("a line of a spool is not whole, and was never acknowledged", spool=str(path), line=number)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
