"""Owns the engines that read exported Parquet, chosen by URL; what is asked of them is `archive.py`.

    duckdb://                                   in this process
    spark://local, spark://local[2]             Spark on this machine, on all or two of its cores
    spark://host:7077                           a Spark cluster, by its master's address
    sc://host:15002                             a Spark cluster, by Spark Connect

Spark wants Java 17 and `pip install -e '.[spark]'`, which is 480 MB; its session stays for the next question, and ends with
this process. A cluster reads files by an address that all of it can reach, like `s3a://bucket/2026-*.parquet`.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from models.errors import BadInput, SetupError
from ops.table_files import need

MOST_MEMORY = "512MB"
_LOCAL = re.compile(r"spark://local(\[(\d+|\*)\])?")


class Engine(Protocol):
    """`micros` is its function from a timestamp to whole microseconds since 1970; `refusals` are its errors."""

    micros: str
    refusals: tuple[type[Exception], ...]

    def columns(self, path: str) -> set[str]: ...

    def rows(self, paths: list[str], query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        """The answer to a query about the table `lines`; `?` stands for each of the values."""
        ...


@contextlib.contextmanager
def open_engine(url: str) -> Iterator[Engine]:
    """Raises BadInput for a URL that names no engine, SetupError where what it needs is missing."""
    if url == "duckdb://":
        duckdb = need("duckdb")
        with duckdb.connect(config={"memory_limit": MOST_MEMORY}) as connection:
            yield _DuckDb(connection, duckdb.Error)
    elif url.startswith(("spark://", "sc://")):
        yield _Spark(_spark_session(url))
    else:
        raise BadInput(
            f"engine: {url!r} names none; write duckdb://, spark://local, spark://host:7077 or sc://host:15002",
            field="engine",
        )


class _DuckDb:
    micros = "epoch_us"

    def __init__(self, connection: Any, refusal: type[Exception]) -> None:
        self._connection = connection
        self.refusals: tuple[type[Exception], ...] = (refusal,)

    def columns(self, path: str) -> set[str]:
        return set(self._connection.read_parquet(path).columns)

    def rows(self, paths: list[str], query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        self._connection.read_parquet(paths).create_view("lines")
        found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return found


class _Spark:
    micros = "unix_micros"

    def __init__(self, session: Any) -> None:
        self._session = session
        # An error on a machine of the cluster comes as the JVM's, which is of another kind.
        self.refusals: tuple[type[Exception], ...] = (
            need("pyspark.errors").PySparkException,
            need("py4j.protocol").Py4JError,
        )

    def columns(self, path: str) -> set[str]:
        return set(self._session.read.parquet(path).columns)

    def rows(self, paths: list[str], query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        self._session.read.parquet(*paths).createOrReplaceTempView("lines")
        return [tuple(row) for row in self._session.sql(query, args=values).collect()]


def _spark_session(url: str) -> Any:
    with warnings.catch_warnings():
        # What it does not support of pandas yet is not used here.
        warnings.simplefilter("ignore", FutureWarning)
        builder = need("pyspark.sql", extra="spark").SparkSession.builder.appName("archive")
        local = _LOCAL.fullmatch(url)
        if url.startswith("sc://"):
            builder = builder.remote(url)
        else:
            builder = builder.master(f"local[{local[2] or '*'}]" if local else url)
            builder = builder.config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
        try:
            return builder.getOrCreate()
        except Exception as error:
            raise SetupError(f"engine: {url} cannot be reached, or Java 17 is missing here: {error}") from error
