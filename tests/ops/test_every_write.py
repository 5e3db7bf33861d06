"""What is true of every verb that writes: one audit row, twice is once, all or nothing, a mistake changes nothing, and no
address is kept for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import ops
from models.changes import OperatorWrite
from models.database import open_database, parse_url
from models.errors import DomainError
from tests.ops.writes import EXAMPLES, RENEWS, SIGNS, audit_count, contents, passed_to, serve_a_request, writing_verbs
from tests.ops.wrong import MISTAKES
from tests.rig import ROOT
from tests.stores import Sql


@pytest.fixture
def sql(address: str) -> Iterator[Sql]:
    with Sql(address) as opened:
        yield opened


@pytest.fixture
def served(address: str) -> None:
    async def serve() -> None:
        async with open_database(parse_url(address), pool=1) as database:
            await serve_a_request(database)

    asyncio.run(serve())


def test_every_verb_that_writes_has_an_example() -> None:
    """A new one gets a line in `writes.py`, and with that all the tests below."""
    assert set(EXAMPLES) == writing_verbs()


def test_nothing_writes_past_the_guard_of_protected_environments() -> None:
    reads, writes = passed_to("_read"), passed_to("_write")
    assert len(reads) > 10
    assert not reads & writes
    for path in sorted((ROOT / "ops").rglob("*.py")):
        if path.name != "drawer.py":
            assert "operator_write" not in path.read_text(), path


@pytest.mark.usefixtures("served")
def test_it_leaves_one_audit_row_or_none_and_twice_is_once(limited_desk: ops.Desk, sql: Sql) -> None:
    """On PostgreSQL as an operators' role: so it may do all of it."""
    for verb, example in EXAMPLES.items():
        call = example(limited_desk)
        before, rows = contents(sql), audit_count(sql)
        call()
        once, rows_once = contents(sql), audit_count(sql)
        assert once != before, verb
        assert rows_once == rows + SIGNS.get(verb, 1), verb
        with contextlib.suppress(ops.BadInput):
            call()
        twice, rows_twice = contents(sql), audit_count(sql)
        if verb in RENEWS:
            assert (twice != once, rows_twice) == (True, rows_once + 1), verb
        else:
            assert (twice, rows_twice) == (once, rows_once), verb
        (last,) = limited_desk.audit.rows(limit=1).to_dict("records")
        assert last["operator"] == "olga", verb
    assert limited_desk.audit.verify().ok
    assert limited_desk.reconcile()["ok"].all()
    kept = sql.rows("SELECT subject, reason, before, after FROM audit")
    assert not any("@" in str(value) or "Bob's own" in str(value) for row in kept for value in row)
    assert not any("@" in str(note) for (note,) in sql.rows("SELECT note FROM transfer"))


def test_a_mistake_is_named_with_its_remedy_and_changes_nothing(
    desk: ops.Desk, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "k")
    assert set(MISTAKES) == writing_verbs()
    before, rows = contents(sql), audit_count(sql)
    for call, said in MISTAKES.values():
        with pytest.raises(DomainError, match=said):
            call(desk)
        assert (contents(sql), audit_count(sql)) == (before, rows), said


@pytest.mark.drill
@pytest.mark.usefixtures("served")
def test_killed_in_the_middle_it_leaves_nothing(address: str, sql: Sql) -> None:
    """`kill -9`, by a process of its own each; on PostgreSQL some of them will do, beside the test below."""
    verbs = EXAMPLES if sql.dialect == "sqlite" else ("GrantsPreview.grant", "Credits.approve", "Keys.issue")
    command = [sys.executable, "-m", "tests.ops.killed", address]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(line: str) -> str:
            print(line, file=process.stdin, flush=True)
            return process.stdout.readline().strip()  # type: ignore[union-attr]

        for verb in verbs:
            assert tell(verb) == "prepared", verb
            before, rows = contents(sql), audit_count(sql)
            assert tell("go on") == "died", verb
            assert (contents(sql), audit_count(sql)) == (before, rows), verb
        process.stdin.close()
    with ops.connect(address) as desk:
        EXAMPLES["Quarantined.close"](desk)()
        assert desk.reconcile()["ok"].all()


@pytest.mark.drill
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("dialect", ["postgres"], indirect=True)
def test_cut_off_from_the_server_in_the_middle_it_leaves_nothing(
    desk: ops.Desk, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, signed = OperatorWrite.audit, list[OperatorWrite]()

    async def sign_and_lose(write: OperatorWrite, *args: Any, **kwargs: Any) -> None:
        await sign(write, *args, **kwargs)
        signed.append(write)
        if len(signed) < SIGNS.get(verb, 1):
            return
        pid = (await write.transaction.execute_query_dict("SELECT pg_backend_pid() AS pid"))[0]["pid"]
        sql.rows("SELECT pg_terminate_backend(?)", pid)

    for verb, example in EXAMPLES.items():
        call = example(desk)
        signed.clear()
        before, rows = contents(sql), audit_count(sql)
        with monkeypatch.context() as lost:
            lost.setattr(OperatorWrite, "audit", sign_and_lose)
            with pytest.raises(ops.LedgerUnavailable):
                call()
        assert (contents(sql), audit_count(sql)) == (before, rows), verb
        call()
        assert audit_count(sql) == rows + SIGNS.get(verb, 1), verb
    assert desk.reconcile()["ok"].all()
