"""Owns passwords: what a good one is, hashing one, checking one. Always in threads of their own, few at once.

Hashing takes 64 MiB and about 0.1 s of every core, on purpose. So a flood of people who sign in (or try to) waits in line, and
its threads step back behind whatever else the machine has to do, first of all the requests that customers pay for.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from models.errors import BadInput, LimitExceeded

LEAST_PASSWORD, MOST_PASSWORD = 8, 1_000
AT_ONCE = 2
# Whoever is further behind would wait longer than a browser's owner does.
_MOST_IN_LINE = 60
_NICENESS = 5
_BUSY = "Many people are signing in at this moment; please try again."
T = TypeVar("T")


async def hash_new_password(password: object, *, field: str = "password") -> str:
    """Argon2id of a good password. Raises BadInput for others, and LimitExceeded when too many wait."""
    return await _in_line(_passwords.hash, check_new_password(password, field=field))


def check_new_password(password: object, *, field: str = "password") -> str:
    """`password` as it is. Raises BadInput for one that is no good."""
    if password is None or password == "":
        raise BadInput(f"{field}: is missing", field=field)
    if not isinstance(password, str) or not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise BadInput(f"{field}: must have {LEAST_PASSWORD} to {MOST_PASSWORD} characters", field=field)
    try:
        password.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{field}: has characters that cannot be encoded", field=field) from None
    return password


async def is_password(password: str, stored: str | None) -> bool:
    """Equal work whether or not there is such a user, so that nobody learns who is one. Raises LimitExceeded as above."""
    return await _in_line(_is_password, password, stored)


def _is_password(password: str, stored: str | None) -> bool:
    try:
        return _passwords.verify(stored or _nobody(), password) and stored is not None
    except (Argon2Error, InvalidHashError):
        return False


@lru_cache
def _nobody() -> str:
    return _passwords.hash(secrets.token_hex(16))


# ── the line ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def _in_line(work: Callable[..., T], *given: object) -> T:
    if not _places.acquire(blocking=False):
        raise LimitExceeded(_BUSY, retry_after_s=5)
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, work, *given)
    finally:
        _places.release()


def _step_back() -> None:
    # Linux has a niceness for each thread, which the threads that the hashing itself begins take over.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


_passwords = PasswordHasher()
_places = threading.Semaphore(_MOST_IN_LINE)
_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="password", initializer=_step_back)
