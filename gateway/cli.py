"""Owns the command line: what can be typed after `gateway`, and the line that a mistake becomes. Others do the work.

Whatever a command needs is imported when it runs, so that `gateway --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand

from models.errors import DomainError, SetupError

if TYPE_CHECKING:
    from gateway.settings import Settings
    from models.retention import Piece

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
            formatter.write_dl(list(_describe_settings()), col_max=26)


class SimulateCommand(TyperCommand):
    """Its help ends with everything that a model's name can ask for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from gateway.simulator import describe_options

        formatter.write("\n" + describe_options() + "\n")


@app.command()
def demo(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make its database, for notebooks, and end.")] = False,
) -> None:
    """Try everything on this machine, without configuration.

    Makes a SQLite database under var/, a simulated provider, a small catalog, an account with 1,000 credits and a key,
    and prints what to paste. Started again it keeps its data. Real providers join in when OPENAI_API_KEY,
    DEEPSEEK_API_KEY, OPENROUTER_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY is set.
    """
    from gateway.demo import prepare_demo, run_demo

    if prepare:
        prepare_demo()
        return
    run_demo(host, port)


@app.command(cls=ServeCommand, context_settings=WIDE)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of GATEWAY_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, instead of GATEWAY_PORT; 0 takes a free one.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, instead of GATEWAY_WORKERS.")] = None,
    rolled_back: Annotated[
        bool, typer.Option("--rolled-back", help="Serve a database that a newer version has migrated.")
    ] = False,
) -> None:
    """Serve the API, from settings."""
    from gateway.server import check_setup, run_server, start_logs
    from gateway.settings import load_settings

    given = {"host": host, "port": port, "workers": workers}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    start_logs(settings)
    _run(settings, check_setup(settings, newer=rolled_back))

    def banner(url: str) -> None:
        print(f"gateway: serving {url}", flush=True)

    run_server(settings, settings.host, settings.port, banner=banner, stages=True)


@app.command()
def migrate() -> None:
    """Bring the database to the current schema. Safe to run twice, and from two machines at once."""
    from gateway.settings import load_settings
    from models.schema import migrate as migrate_database
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
    sum_days: Annotated[
        bool,
        typer.Option("--sum-days", help="First sum again the days of usage that are not the sums of their records."),
    ] = False,
) -> None:
    """Check every money invariant. Exit code 0 when all hold, 1 otherwise."""
    from gateway.maintenance import find, sum_days_again
    from gateway.settings import load_settings

    settings = load_settings()
    if sum_days:
        for day in _run(settings, sum_days_again(settings.database)):
            print(f"summed again: {day}", file=sys.stderr)
    findings = _run(settings, find(settings.database))
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


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; a new file.")],
) -> None:
    """Copy a SQLite database while the server runs. On PostgreSQL use pg_dump.

    The copy is as of one moment. It does not hold the secret that seals the providers' credentials: keep that too, elsewhere.
    """
    from gateway.settings import load_settings
    from models.backup import back_up

    settings = load_settings()
    size = _guarded(settings, lambda: back_up(settings.database, file))
    secret = "GATEWAY_SECRET_KEY" if settings.secret_key else f"{settings.database.path}.secret"
    print(f"{file}: {size:,} bytes, as of now; its credentials open with {secret}: keep that too, elsewhere")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="The copy to put in the database's place.")],
) -> None:
    """Put a copy in the place of a SQLite database. Stop the server and notebooks first. On PostgreSQL use pg_restore.

    What was there is kept beside it under another name. What was charged, granted, issued or revoked since the copy was made
    is undone by it. Then run: gateway migrate, gateway reconcile.
    """
    from datetime import UTC, datetime

    from gateway.settings import load_settings
    from models.backup import restore as put_back

    settings = load_settings()
    aside = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    kept = _guarded(settings, lambda: put_back(settings.database, file, aside))
    before = f"; what was there is {kept}" if kept else ""
    print(f"{settings.database.shown}: is {file} again{before}; now run: gateway migrate, gateway reconcile")


@app.command(name="drop-usage")
def drop_usage(
    before: Annotated[str, typer.Option(help="The first month to keep, as 2026-01 (UTC).")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "retention",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this nothing is changed.")] = False,
) -> None:
    """Drop the usage records of past months, for good; first shows what would go.

    Balances, transfers and holds stay for ever, so no money changes and reconcile holds afterwards. PostgreSQL drops a
    month's partition at a time and gives its disk space back; SQLite deletes in small batches and uses the space again.
    The server may run. OPS_OPERATOR (else your login's name) signs the audit log.
    """
    from gateway.maintenance import drop
    from gateway.settings import load_settings

    settings = load_settings()

    def told(piece: Piece) -> None:
        how = f"table {piece.table} as a whole" if piece.whole else f"rows of table {piece.table}"
        print(f"{'dropped' if yes else 'would drop'} {piece.month}: {piece.records:,} records, {how}", flush=True)

    pieces = _run(settings, drop(settings.database, before, reason, yes, told))
    if not pieces:
        print(f"nothing to drop: there are no usage records from before {before}")
        return
    total = f"{sum(piece.records for piece in pieces):,} usage records from before {before}-01 00:00 UTC"
    print(f"dropped {total}" if yes else f"would drop {total}; nothing was changed, do it with: --yes")


@app.command()
def quarantine(
    retry: Annotated[int | None, typer.Option(metavar="ID", help="Settle this one now.")] = None,
    close: Annotated[int | None, typer.Option(metavar="ID", help="Nothing more will come of this one.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """List the settlements that the ledger refused; try one again when the cause is mended, or close it.

    A retry charges as the gateway would have, now, and only while what was held is held or has expired. What went back to
    its account is made up for with a correction, and closed. Twice is once. The server may run; retries need its database
    role. OPS_OPERATOR (else your login's name) signs the audit log.
    """
    from gateway.maintenance import quarantine_lines
    from gateway.settings import load_settings

    if retry is not None and close is not None:
        raise SetupError("--retry and --close: give one of them")
    settings = load_settings()
    for line in _run(settings, quarantine_lines(settings.database, retry, close, reason)):
        print(line)


@app.command(name="operator-role")
def operator_role(
    name: Annotated[str, typer.Argument(help="The role, like olga; made if there is none.")],
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this the statements are printed.")] = False,
) -> None:
    """Give a PostgreSQL role what operators need, and no more.

    It can read everything and do every verb of ops, but neither change nor remove transfers, price versions and audit
    rows, nor create, alter or drop anything. Run it as the owner of the tables, again after each migration. The role has no
    password until you give it one, in psql: \\password NAME. Then operators connect as it, and nobody needs the owner's.
    """
    from gateway.maintenance import make_role
    from gateway.settings import load_settings
    from models.roles import operator_role as statements

    settings = load_settings()
    for statement in statements(settings.database, name):
        if not apply:
            print(f"{statement};")
    if apply:
        _run(settings, make_role(settings.database, name))
        print(f"{settings.database.shown}: {name} is a role for operators; if it is new, set its password")


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
    from gateway.settings import Settings, variable_of

    for name, field in Settings.model_fields.items():
        default = f" ({field.default})" if field.default not in (None, ()) else ""
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        one_of = f", one of {', '.join(choices)}" if choices else ""
        yield variable_of(name), f"{field.description}{one_of}{default}"


def _run(settings: Settings, work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end. Whatever keeps the database from us becomes one line."""
    import asyncio

    return _guarded(settings, lambda: asyncio.run(work))


def _guarded(settings: Settings, work: Callable[[], Result]) -> Result:
    import sqlite3

    from asyncpg import PostgresError
    from tortoise.exceptions import BaseORMException

    from models.database import why_unusable

    try:
        return work()
    except (BaseORMException, PostgresError, sqlite3.Error, OSError) as error:
        why = why_unusable(settings.database, error)
        raise SetupError(f"GATEWAY_DATABASE_URL: cannot use {settings.database.shown}: {why}") from error
