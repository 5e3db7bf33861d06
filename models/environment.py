"""Owns what commands and notebooks read from outside: variables, the project's `.env` below them, and who is at work."""

from __future__ import annotations

import getpass
import os

from dotenv import dotenv_values

from models.checks import check_text
from models.database import project_folder
from models.errors import SetupError


def variables() -> dict[str, str]:
    """The environment over the project's `.env`; an empty variable is unset."""
    given = {**dotenv_values(project_folder() / ".env"), **os.environ}
    return {name: value for name, value in given.items() if value}


def operator_name(given: str | None = None) -> str:
    """Who signs the audit log: `given`, else OPS_OPERATOR, else the name of the login. Raises BadInput for odd names."""
    name = given or variables().get("OPS_OPERATOR")
    if not name:
        try:
            name = getpass.getuser()
        except (KeyError, OSError) as error:
            raise SetupError("OPS_OPERATOR: set it to your name; this process's login has none") from error
    return check_text(name, field="operator", most=200)


def secret(name: str) -> str:
    """The secret that a variable holds, else one typed unseen: it never stands in a notebook. Raises SetupError."""
    value = variables().get(name) or _typed(name)
    if not value:
        raise SetupError(f"{name}: is not set; set the variable, or run this where you can type it")
    return value


def _typed(name: str) -> str:
    try:
        return getpass.getpass(f"{name}: ").strip()
    # A notebook that runs by itself has nobody to ask.
    except (EOFError, NotImplementedError):
        return ""
