"""Owns the named environments of `ops.toml`: where each one's database is, who signs, and what guards it.

The file stands in the project's folder, beside `.env`, and holds no secrets: it names the variables that do.

    [demo]
    database_url = "sqlite://var/gateway.db"

    [production]
    database_url_from = "PRODUCTION_DATABASE_URL"   # a variable, of the environment or of .env
    secret_key_from = "PRODUCTION_SECRET_KEY"       # else GATEWAY_SECRET_KEY; seals providers' credentials
    operator = "olga"                               # unless OPS_OPERATOR says otherwise
    approval_above = "5000"                         # credits; larger grants wait for a second operator
    protected = true                                # writing asks for the environment's name, typed out
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from models.database import DEFAULT_URL, DatabaseUrl, parse_url, postgres_options, project_folder
from models.errors import BadInput, SetupError
from models.prices import nano_from_credits

FILE = "ops.toml"
FIELDS = ("database_url", "database_url_from", "secret_key_from", "operator", "approval_above", "protected")


class Environment(msgspec.Struct, frozen=True):
    """One database as a desk needs to know it. `name` is None for one that no file names."""

    name: str | None
    url: DatabaseUrl
    operator: str | None = None
    secret_key: str | None = None
    approval_above_nano: int | None = None
    protected: bool = False


def choose_environment(
    variables: Mapping[str, str], *, database_url: str | None = None, name: str | None = None
) -> Environment:
    """The environment called `name`, else OPS_ENVIRONMENT; else the database of a URL, else of GATEWAY_DATABASE_URL.

    A URL that belongs to a named environment is that environment: nobody gets around its guards by naming its database.
    Raises SetupError, one line that names the field and the remedy.
    """
    if database_url and name:
        raise SetupError("environment: give it or database_url, not both")
    tables = _read_file()
    wanted = name or (None if database_url else variables.get("OPS_ENVIRONMENT"))
    if wanted:
        if wanted not in tables:
            known = f"the file knows {', '.join(tables)}" if tables else f"there is no {project_folder() / FILE}"
            raise SetupError(f"environment: there is no {wanted!r}; {known}; add a table [{wanted}]")
        url = _url(wanted, tables[wanted], variables)
        if url is None:
            variable = tables[wanted]["database_url_from"]
            raise SetupError(
                f"{FILE}: {wanted}.database_url_from: the variable {variable} is not set; set it to the URL"
            )
        return _environment(wanted, tables[wanted], url, variables)
    url = parse_url(database_url or variables.get("GATEWAY_DATABASE_URL") or DEFAULT_URL)
    for each, table in tables.items():
        other = _url(each, table, variables)
        if other is not None and _place(other) == _place(url):
            return _environment(each, table, url, variables)
    return Environment(None, url, secret_key=variables.get("GATEWAY_SECRET_KEY"))


def environment_rows(variables: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every environment of the file; URLs without passwords, None while their variable is not set."""
    rows = []
    for name, table in _read_file().items():
        url = _url(name, table, variables)
        above = table.get("approval_above")
        rows.append(
            {
                "environment": name,
                "database": None if url is None else url.shown,
                "protected": table.get("protected", False),
                "approval_above": None if above is None else Decimal(above),
            }
        )
    return rows


def _read_file() -> dict[str, dict[str, Any]]:
    """The tables by name, checked."""
    path = project_folder() / FILE
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: is not TOML: {error}") from None
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SetupError(f"{FILE}: {name}: stands in no environment; put it below a line like [production]")
        _check(name, table)
    return tables


def _check(name: str, table: dict[str, Any]) -> None:
    for field, value in table.items():
        if field not in FIELDS:
            raise SetupError(f"{FILE}: {name}.{field}: is no field; the fields are {', '.join(FIELDS)}")
        if field == "protected":
            if not isinstance(value, bool):
                raise SetupError(f"{FILE}: {name}.protected: must be true or false, not {value!r}")
        elif field == "approval_above":
            _above_nano(name, value)
        elif not isinstance(value, str) or not value.strip():
            raise SetupError(f'{FILE}: {name}.{field}: must be a text, like {field} = "…", not {value!r}')
    if ("database_url" in table) == ("database_url_from" in table):
        problem = "give one of them" if "database_url" in table else "is missing; give it"
        raise SetupError(
            f"{FILE}: {name}.database_url: {problem}, or database_url_from, the name of a variable that has it"
        )


def _above_nano(name: str, value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadInput(f'must be credits like "5000", not {value!r}')
        nano = nano_from_credits(value, field="credits")
        if nano < 0:
            raise BadInput("cannot be below 0")
    except BadInput as error:
        raise SetupError(f'{FILE}: {name}.approval_above: {error}; write credits like "5000"') from None
    return nano


def _url(name: str, table: Mapping[str, Any], variables: Mapping[str, str]) -> DatabaseUrl | None:
    """None while the variable that has it is not set."""
    field = "database_url" if "database_url" in table else "database_url_from"
    text = table[field] if field == "database_url" else variables.get(table[field])
    if text is None:
        return None
    try:
        return parse_url(text)
    except SetupError as error:
        problem = str(error).removeprefix("GATEWAY_DATABASE_URL: ")
        raise SetupError(f"{FILE}: {name}.{field}: {problem}") from None


def _environment(name: str, table: Mapping[str, Any], url: DatabaseUrl, variables: Mapping[str, str]) -> Environment:
    secret_from = table.get("secret_key_from", "GATEWAY_SECRET_KEY")
    above = table.get("approval_above")
    return Environment(
        name=name,
        url=url,
        operator=table.get("operator"),
        secret_key=variables.get(secret_from),
        approval_above_nano=None if above is None else _above_nano(name, above),
        protected=table.get("protected", False),
    )


def _place(url: DatabaseUrl) -> tuple[Any, ...]:
    """What makes two URLs the same database, whoever signs in."""
    if url.path is not None:
        return ("sqlite", url.path.resolve())
    options = postgres_options(url)
    host = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}.get(options["host"], options["host"])
    return ("postgres", host, options["port"], options["database"])
