"""Owns secrets at rest: the server's own key, sealed provider credentials, hashed API keys. Passwords: `passwords.py`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from models.database import DatabaseUrl
from models.errors import SetupError

KEY_PREFIX = "sk-st-"


def load_secret_key(url: DatabaseUrl, given: str | None, *, create: bool = False) -> str:
    """`GATEWAY_SECRET_KEY`, or the file beside a SQLite database (`<database>.secret`, mode 0600).

    Raises SetupError when there is none and `create` is false, or the database is not SQLite.
    """
    if given:
        return given
    if url.path is None:
        raise SetupError(
            "GATEWAY_SECRET_KEY: required with PostgreSQL: the one that the servers use; if there is none yet, make one "
            "with: openssl rand -hex 32"
        )
    path = url.path.with_name(url.path.name + ".secret")
    if not path.exists() and _seals_credentials(url.path):
        raise SetupError(
            f"{path} is missing, and the providers' credentials in {url.path.name} were sealed with it; restore it from "
            "your backup, or set GATEWAY_SECRET_KEY to what it held"
        )
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_once(path, secrets.token_hex(32))
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise SetupError(
            f"GATEWAY_SECRET_KEY: not set, and there is no {path}; create it with: gateway migrate"
        ) from None


def _seals_credentials(path: Path) -> bool:
    """Whether a new secret would make credentials unreadable."""
    if not path.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM provider LIMIT 1").fetchone() is not None
    except sqlite3.DatabaseError:
        # Not migrated yet, or no database: whoever opens it next says so.
        return False


def _write_once(path: Path, text: str) -> None:
    """Whole or not at all, and never over another process's file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


class Seal:
    """Encrypts what must be read again: provider credentials. `mark` tells whether two have the same key, and not which."""

    def __init__(self, secret_key: str) -> None:
        derived = hashlib.sha256(b"provider credentials\0" + secret_key.encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(derived))
        self.mark = hashlib.sha256(b"mark\0" + derived).hexdigest()[:32]

    def close(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Raises SetupError when the text was sealed under another key."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SetupError(
                "GATEWAY_SECRET_KEY: is not the key that the provider credentials were saved under; restore that key, "
                "or set the credentials again"
            ) from None


def new_key_secret() -> str:
    """A fresh API key of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_secret_of(seed: bytes, purpose: str) -> str:
    """The API key that this seed of 256 random bits makes for one purpose: always the same, and unlike any other's."""
    return KEY_PREFIX + base64.urlsafe_b64encode(hmac.digest(seed, purpose.encode(), "sha256")).decode().rstrip("=")


def hash_key_secret(secret: str) -> str:
    """What is stored of an API key. A plain SHA-256 will do: the key itself is random, there is nothing to guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def key_hint(secret: str) -> str:
    """What may be shown again of an API key."""
    return f"{secret[: len(KEY_PREFIX) + 4]}…{secret[-4:]}"
