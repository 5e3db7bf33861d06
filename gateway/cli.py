"""Owns the command line: what can be typed after `gateway`, and the line that a mistake becomes. Others do the work.

Whatever a command needs is imported when it runs, so that `gateway --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand

from models.errors import DomainError, SetupError

if TYPE_CHECKING:
    from gateway.settings import Settings

Result = TypeVar("Result")
WIDE = {"max_content_width": 120}

app = typer.Typer(
    name="gateway",
    help="One OpenAI-compatible API in front of many model providers, sold by prepaid credits.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point. Errors that we raise on purpose end as one line on stderr and exit code 2."""
    try:
        app(prog_name="gateway")
    except DomainError as error:
        print("gateway:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


class ServeCommand(TyperCommand):
    """Its help ends with every setting."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Settings, from the environment or the file .env"):
            formatter.write_dl(list(_describe_settings()), col_max=40)


class SimulateCommand(TyperCommand):
    """Its help ends with everything that a model's name can ask for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from gateway.simulator import describe_options

        formatter.write("\n" + describe_options() + "\n")


@app.command()
def demo(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
) -> None:
    """Try everything on this machine, without configuration.

    Makes a SQLite database under var/, a simulated provider, a small catalog, an account with 1,000 credits and a key,
    and prints what to paste. Started again it keeps its data. Real providers join in when OPENAI_API_KEY,
    DEEPSEEK_API_KEY, OPENROUTER_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY is set.
    """
    from gateway.demo import run_demo

    run_demo(host, port)


@app.command(cls=ServeCommand, context_settings=WIDE)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of GATEWAY_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, instead of GATEWAY_PORT.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, instead of GATEWAY_WORKERS.")] = None,
) -> None:
    """Serve the API, from settings."""
    from gateway.server import check_setup, run_server
    from gateway.settings import load_settings

    given = {"host": host, "port": port, "workers": workers}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    _run(settings, check_setup(settings))
    run_server(settings, settings.host, settings.port, banner=lambda url: print(f"gateway: serving {url}", flush=True))


@app.command()
def migrate() -> None:
    """Bring the database to the current schema. Safe to run twice, and from two machines at once."""
    from gateway.settings import load_settings
    from models.database import migrate as migrate_database
    from models.secrets import load_secret_key

    settings = load_settings()
    applied = _run(settings, migrate_database(settings.database))
    if settings.database.path is not None:
        given = settings.secret_key.get_secret_value() if settings.secret_key else None
        load_secret_key(settings.database, given, create=True)
    done = f"applied {', '.join(applied)}" if applied else "nothing to do, it is current"
    print(f"{settings.database.shown}: {done}")


@app.command()
def reconcile(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """Check every money invariant. Exit code 0 when all hold, 1 otherwise."""
    from gateway.settings import load_settings

    settings = load_settings()
    findings = _run(settings, _find(settings))
    all_hold = all(finding.ok for finding in findings)
    if as_json:
        import msgspec

        document = {"ok": all_hold, "database": settings.database.shown, "invariants": findings}
        print(msgspec.json.encode(document).decode())
    else:
        for finding in findings:
            print(f"{finding.number:>2} {'holds' if finding.ok else 'FAILS'}  {finding.name}: {finding.detail}")
    if not all_hold:
        raise typer.Exit(1)


@app.command(name="simulate-provider", cls=SimulateCommand, context_settings=WIDE)
def simulate_provider(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
) -> None:
    """Run the simulated provider alone. Delays, failures and usage shapes are chosen by the model's name."""
    from gateway.simulator import run_simulator

    try:
        run_simulator(host, port)
    except OSError as error:
        raise SetupError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error


def _describe_settings() -> Iterator[tuple[str, str]]:
    from gateway.settings import PREFIX, Settings

    for name, field in Settings.model_fields.items():
        default = f" ({field.default})" if field.default not in (None, ()) else ""
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        one_of = f", one of {', '.join(choices)}" if choices else ""
        yield f"{PREFIX}{name.upper()}", f"{field.description}{one_of}{default}"


async def _find(settings: Settings) -> list[Any]:
    from gateway.server import check_schema
    from models.database import open_database
    from models.invariants import check_invariants

    async with open_database(settings.database, pool=1) as database:
        await check_schema(database)
        return list(await check_invariants(database))


def _run(settings: Settings, work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end. Whatever keeps the database from us becomes one line."""
    import asyncio
    import sqlite3

    from asyncpg import PostgresError
    from tortoise.exceptions import BaseORMException

    try:
        return asyncio.run(work)
    except (BaseORMException, PostgresError, sqlite3.Error, OSError) as error:
        raise SetupError(f"GATEWAY_DATABASE_URL: cannot use {settings.database.shown}: {error}") from error
