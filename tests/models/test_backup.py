"""Back-ups of SQLite: whole, private, never over anything, and never put in place where that would do harm."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from models.backup import back_up, restore
from models.database import DatabaseUrl, file_lock, parse_url
from models.errors import SetupError
from tests.databases import Templates

ASIDE = "before"


@pytest.fixture
def url(templates: Templates, tmp_path: Path) -> Iterator[DatabaseUrl]:
    with templates.copy("sqlite", tmp_path) as address:
        yield parse_url(address)


def path_of(url: DatabaseUrl) -> Path:
    assert url.path is not None
    return url.path


def write(path: Path, name: str) -> sqlite3.Connection:
    """An account, on a connection that stays open: its commit is in the write-ahead log alone."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO account (name, balance_nano, held_nano, created_us) VALUES (?, 0, 0, 0)", [name])
    return connection


def names(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM account WHERE id > 1000 ORDER BY id")]


def test_a_copy_is_private_and_has_what_is_in_the_log_alone(url: DatabaseUrl, tmp_path: Path) -> None:
    with contextlib.closing(write(path_of(url), "ada")):
        size = back_up(url, tmp_path / "copy.db")
    assert size == (tmp_path / "copy.db").stat().st_size
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert names(tmp_path / "copy.db") == ["ada"]
    assert {path.name for path in tmp_path.glob("*copy*")} == {"copy.db"}


def test_what_is_put_back_does_not_meet_the_log_of_what_was_there(url: DatabaseUrl, tmp_path: Path) -> None:
    first = write(path_of(url), "ada")
    back_up(url, tmp_path / "copy.db")
    copied = (tmp_path / "copy.db").read_bytes()
    second = write(path_of(url), "later")
    kept = restore(url, tmp_path / "copy.db", ASIDE)
    assert kept is not None
    assert names(path_of(url)) == ["ada"]
    first.close()
    second.close()
    assert names(kept) == ["ada", "later"]
    assert names(path_of(url)) == ["ada"]
    assert (tmp_path / "copy.db").read_bytes() == copied
    assert not list(tmp_path.glob("copy.db-*"))


def test_a_log_that_a_killed_restore_has_left_is_kept(url: DatabaseUrl, tmp_path: Path) -> None:
    with contextlib.closing(write(path_of(url), "ada")):
        back_up(url, tmp_path / "copy.db")
    with contextlib.closing(write(path_of(url), "later")):
        # As far as the first step of putting it aside.
        killed = path_of(url).rename(tmp_path / "killed.db")
        kept = restore(url, tmp_path / "copy.db", ASIDE)
        assert kept == tmp_path / f"gateway.db.{ASIDE}-wal"
        assert names(path_of(url)) == ["ada"]
        kept.rename(tmp_path / "killed.db-wal")
        assert names(killed) == ["ada", "later"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_puts_back_belongs_to_whom_its_folder_does(url: DatabaseUrl, tmp_path: Path) -> None:
    back_up(url, tmp_path / "copy.db")
    folder = tmp_path / "new"
    folder.mkdir()
    os.chown(folder, 4321, 4322)
    restore(parse_url(f"sqlite://{folder / 'gateway.db'}"), tmp_path / "copy.db", ASIDE)
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}
    assert owners == dict.fromkeys(("gateway.db", "gateway.db.lock"), (4321, 4322))


def test_a_path_may_have_letters_that_mean_something_in_a_url(url: DatabaseUrl, tmp_path: Path) -> None:
    write(path_of(url), "ada").close()
    back_up(url, tmp_path / "copy.db")
    path = tmp_path / "50%25 off? #1" / "gateway.db"
    elsewhere = parse_url(f"sqlite://{quote(str(path))}")
    restore(elsewhere, tmp_path / "copy.db", ASIDE)
    assert names(path) == ["ada"]
    assert back_up(elsewhere, path.with_name("copy.db")) > 0


def test_it_is_put_back_where_nothing_is_left(url: DatabaseUrl, tmp_path: Path) -> None:
    write(path_of(url), "ada").close()
    back_up(url, tmp_path / "copy.db")
    elsewhere = parse_url(f"sqlite://{tmp_path / 'new' / 'gateway.db'}")
    assert restore(elsewhere, tmp_path / "copy.db", ASIDE) is None
    assert names(path_of(elsewhere)) == ["ada"]


def test_what_would_do_harm_is_refused_with_nothing_changed(url: DatabaseUrl, tmp_path: Path) -> None:
    write(path_of(url), "ada").close()
    back_up(url, tmp_path / "copy.db")
    newer, stranger, text = (tmp_path / name for name in ("newer.db", "stranger.db", "text.db"))
    back_up(url, newer)
    with contextlib.closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute(
            "INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('models', '0099_later', '')"
        )
    with contextlib.closing(sqlite3.connect(stranger)) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    text.write_text("hello")
    postgres = parse_url("postgres://somebody:secret@127.0.0.1/gateway")
    missing = parse_url(f"sqlite://{tmp_path / 'missing.db'}")

    def refused(work: object, *words: str) -> None:
        with pytest.raises(SetupError) as caught:
            work()  # type: ignore[operator]
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert "secret" not in str(caught.value)

    refused(lambda: back_up(url, tmp_path / "copy.db"), "copy.db exists", "name a file")
    # Looked at, there seems to be none; a copy that takes its name would replace it.
    (tmp_path / "link.db").symlink_to(tmp_path / "away.db")
    refused(lambda: back_up(url, tmp_path / "link.db"), "link.db", "File exists")
    refused(lambda: back_up(missing, tmp_path / "none.db"), "missing.db", "GATEWAY_DATABASE_URL")
    refused(lambda: back_up(url, tmp_path / "no" / "folder.db"), "folder.db", "cannot be written")
    refused(lambda: back_up(postgres, tmp_path / "x"), "GATEWAY_DATABASE_URL", "pg_dump")
    refused(lambda: restore(postgres, tmp_path / "copy.db", ASIDE), "GATEWAY_DATABASE_URL", "pg_restore")
    refused(lambda: restore(url, newer, ASIDE), "newer.db was migrated by a newer version", "0099_later", "install")
    refused(lambda: restore(url, stranger, ASIDE), "stranger.db is no database of this program")
    refused(lambda: restore(url, text, ASIDE), "text.db: cannot be copied")
    refused(lambda: restore(url, tmp_path / "nowhere.db", ASIDE), "no back-up at")
    refused(lambda: restore(url, path_of(url), ASIDE), "the database itself")
    with file_lock(tmp_path / "gateway.db.lock"):
        refused(lambda: restore(url, tmp_path / "copy.db", ASIDE), "a server is running", "stop it first")
    assert names(path_of(url)) == ["ada"]
    assert not list(tmp_path.glob(f"*{ASIDE}*"))
    assert not (tmp_path / "none.db").exists()
