"""The spool: what was promised survives, what was not does not count, and one process at a time has a file."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from gateway.spool import Spool, left_behind, path_of
from models.epochs import Life
from models.money import Capture, Release

LIFE = Life(7, 1_800_000_000_000_000)
USAGE = ("r-1", 5, 1001, 1, 1, 1, 1, "served", True, False, 3, 0, 0, 4, 1, 2, 9, '[{"route":1}]')
SETTLEMENTS = [Capture("r-1", 1001, 123_456_789_012_345_678, 6, USAGE), Release("r-2", 1001, 7, None, True)]


def test_what_was_appended_is_read_as_it_was(tmp_path: Path) -> None:
    path = path_of(tmp_path / "spool", LIFE)
    spool = Spool(path, LIFE)
    assert list(spool.settlements()) == []
    spool.append(SETTLEMENTS[:1])
    spool.append(SETTLEMENTS[1:])
    assert list(spool.settlements()) == SETTLEMENTS
    assert spool.count == 2
    spool.close()
    assert path.stat().st_mode & 0o777 == 0o600
    [again] = left_behind(path.parent)
    assert (again.life, list(again.settlements()), again.count) == (LIFE, SETTLEMENTS, 2)
    again.clear()
    assert list(again.settlements()) == []
    again.append(SETTLEMENTS[:1])
    assert list(again.settlements()) == SETTLEMENTS[:1]
    again.clear()
    again.close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("kept", range(0, 60, 3))
def test_a_line_that_was_cut_by_a_crash_does_not_count_and_hurts_no_other(tmp_path: Path, kept: int) -> None:
    path = path_of(tmp_path, LIFE)
    spool = Spool(path, LIFE)
    spool.append(SETTLEMENTS[:1])
    whole = path.stat().st_size
    spool.append(SETTLEMENTS[1:])
    spool.close()
    os.truncate(path, whole + kept)
    [again] = left_behind(tmp_path)
    assert list(again.settlements()) == SETTLEMENTS[:1]
    again.append(SETTLEMENTS[1:])
    assert list(again.settlements()) == SETTLEMENTS
    again.close()


def test_a_full_disk_is_an_error_and_nothing_of_it_counts(tmp_path: Path) -> None:
    """The largest file that this process may write is a small disk."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from gateway.spool import Spool, path_of
from models.epochs import Life
from models.money import Release
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
life = Life(7, 1)
spool = Spool(path_of(Path({str(tmp_path)!r}), life), life)
spool.append([Release("kept", 1, 1)])
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
try:
    spool.append([Release("lost", 1, 1)] * 10)
except OSError as error:
    print(spool.count, [one.request_id for one in spool.settlements()])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 ['kept']\n"


def test_the_file_of_a_living_worker_is_left_alone(tmp_path: Path) -> None:
    living = Spool(path_of(tmp_path, LIFE), LIFE)
    living.append(SETTLEMENTS)
    assert list(left_behind(tmp_path)) == []
    with pytest.raises(BlockingIOError):
        Spool(living.path, LIFE)
    living.close()
    [found] = left_behind(tmp_path)
    assert found.count == 2
    found.close()


def test_an_empty_file_of_a_crash_is_tidied_away(tmp_path: Path) -> None:
    path_of(tmp_path, LIFE).touch()
    assert list(left_behind(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_promised_after_a_clearing_says_whose_it_is(tmp_path: Path) -> None:
    spool = Spool(path_of(tmp_path, LIFE), LIFE)
    spool.append(SETTLEMENTS)
    spool.clear()
    spool.append(SETTLEMENTS[1:])
    spool.close()
    [found] = left_behind(tmp_path)
    assert (found.life, list(found.settlements())) == (LIFE, SETTLEMENTS[1:])
    found.close()


def test_files_that_cannot_be_read_stop_no_other_and_stay(tmp_path: Path) -> None:
    """Of another version, without a name, or no file at all: a person looks at them, and the others are replayed."""

    def line(text: bytes) -> bytes:
        return b"%08x %b\n" % (zlib.crc32(text), text)

    life = line(b'["life",1,2]')
    (tmp_path / "1-other-version.spool").write_bytes(life + line(b'["capture",{"price":"unheard of"}]'))
    (tmp_path / "2-nameless.spool").write_bytes(line(b'["release",{"request_id":"r","account_id":1,"at_us":1}]'))
    (tmp_path / "3-folder.spool").mkdir()
    spool = Spool(path_of(tmp_path, LIFE), LIFE)
    spool.append(SETTLEMENTS)
    spool.close()
    unreadable: list[Path] = []
    found = left_behind(tmp_path, unreadable)
    assert next(found).life == LIFE
    assert sorted(path.name[0] for path in unreadable) == ["1", "2", "3"]
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["1", "2", "3", "7"]


def test_whoever_stops_in_the_middle_of_adopting_keeps_no_file(tmp_path: Path) -> None:
    """The database went away again: the next round finds all of them."""
    for number in range(3):
        life = Life(number, 1)
        spool = Spool(path_of(tmp_path, life), life)
        spool.append(SETTLEMENTS)
        spool.close()

    def adopt_one_and_fail() -> None:
        for spool in left_behind(tmp_path):
            assert spool.count == 2
            raise ConnectionError("away")

    for _ in range(3):
        with pytest.raises(ConnectionError):
            adopt_one_and_fail()
        gc.collect()
    found = []
    for spool in left_behind(tmp_path):
        found.append(spool.life.epoch_id)
        spool.close()
    assert found == [0, 1, 2]


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert list(left_behind(tmp_path / "none")) == []


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from gateway.spool import Spool, path_of
from models.epochs import Life
from models.money import Release
import os
life = Life(9, 1)
Spool(path_of(Path({str(tmp_path)!r}), life), life).append([Release("promised", 1, 1)])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    [found] = left_behind(tmp_path)
    assert [one.request_id for one in found.settlements()] == ["promised"]
    with found.path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    found.close()
