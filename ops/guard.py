"""Owns the guard of a protected environment: nothing is written before somebody typed the environment's name out."""

from __future__ import annotations

import sys

from models.errors import BadInput, NeedsConfirmation
from ops.environments import Environment


class Guard:
    """Locked from the start, for the life of one desk. An environment that is not protected has no lock."""

    def __init__(self, environment: Environment) -> None:
        self._name = environment.name
        self.locked = environment.protected

    def unlock(self, name: str) -> None:
        """Raises BadInput unless it is the environment's own name; then it stays locked."""
        if self._name is None:
            raise BadInput("environment: this desk stands on none that has a name; it needs no unlocking")
        if name != self._name:
            raise BadInput(
                f"environment: this desk stands on {self._name}, not on {name!r}; nothing was unlocked. "
                f'If you mean to write there: desk.unlock("{self._name}")',
                field="environment",
            )
        self.locked = False

    def check(self) -> None:
        """Before a write. In a notebook or a terminal it asks; elsewhere NeedsConfirmation says what to do."""
        if not self.locked:
            return
        if self._typed() == self._name:
            self.locked = False
            return
        raise NeedsConfirmation(
            f"environment: {self._name} is protected, and nothing was changed. "
            f'If you mean to write there: desk.unlock("{self._name}")',
            field="environment",
        )

    def _typed(self) -> str | None:
        if not _is_interactive():
            return None
        try:
            return input(f"This writes to {self._name}. Type its name to go on: ").strip()
        # A notebook that runs by itself has nobody to ask.
        except (EOFError, NotImplementedError):
            return None


def _is_interactive() -> bool:
    # IPython is there if, and only if, this is a notebook or its terminal.
    shell = sys.modules.get("IPython")
    return bool((shell is not None and shell.get_ipython() is not None) or (sys.stdin and sys.stdin.isatty()))
