"""Owns what every drawer of the desk shares: calling an async verb of the records with its database and operator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from models.database import Database

if TYPE_CHECKING:
    from ops.desk import Desk

P = ParamSpec("P")
T = TypeVar("T")


class Drawer:
    """A group of verbs on a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def _read(self, verb: Callable[Concatenate[Database, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """`verb(database, …)`, waited for."""
        session = self._desk._session
        return session.run(cast("Coroutine[Any, Any, T]", verb(session.database, *args, **kwargs)))

    def _write(
        self, verb: Callable[Concatenate[Database, str, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`verb(database, operator, …)`, waited for: one transaction, signed by the desk's operator.

        Raises NeedsConfirmation while the desk stands on a protected environment and is locked.
        """
        self._desk._guard.check()
        session, operator = self._desk._session, self._desk.operator
        return session.run(cast("Coroutine[Any, Any, T]", verb(session.database, operator, *args, **kwargs)))
