"""Where the gateway of the benchmark keeps things: a SQLite file, or a fresh PostgreSQL database and an empty Redis one.

Both are found as the tests find them, and are gone at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.servers import ServerFailed, clean_environment
from tests.servers import fresh_postgres
from tests.stores import SECRET_KEY, fresh_redis


@dataclass(frozen=True)
class Stores:
    database_url: str
    redis_url: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Ours with the settings that name the stores, for a gateway and for its operators alike."""
        settings = {"GATEWAY_DATABASE_URL": self.database_url, "GATEWAY_SECRET_KEY": SECRET_KEY}
        return clean_environment(settings | ({"GATEWAY_REDIS_URL": self.redis_url} if self.redis_url else {}))


def sqlite_stores(folder: Path, name: str) -> Stores:
    return Stores(f"sqlite://{folder / name}.db")


@contextmanager
def postgres_stores() -> Iterator[Stores]:
    """Of the machine's own servers. Raises ServerFailed where there is no PostgreSQL or no Redis."""
    try:
        with fresh_postgres() as database_url, fresh_redis() as redis_url:
            yield Stores(database_url, redis_url)
    except pytest.skip.Exception as missing:
        raise ServerFailed(str(missing)) from None
