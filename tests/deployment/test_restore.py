"""The restore drill: a back-up made under load by the README's own commands, more traffic, everything destroyed, and put back.

What is back is the business of the back-up's moment, to the last digit. What came later is gone, and the README says so: calls
are as if never charged, a key issued later is unknown, one revoked later works again, a grant may be made once more.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.spool import Spool, path_of
from models.epochs import Life
from models.money import Capture
from tests.faults.books import logged
from tests.rig import ROOT, Customer, Price, Rig, client, start_rig
from tests.servers import execute_now, postgres_client
from tests.stores import CLUSTER, SQLITE, Sql, on

pytestmark = pytest.mark.drill
PRICE = Price("1", "2")


def lines_of(heading: str, *programs: str) -> list[str]:
    """The commands of a part of the README that begin with one of these programs."""
    part = (ROOT / "README.md").read_text().split(f"\n### {heading}\n")[1].split("\n#")[0]
    found = [line for block in re.findall(r"```bash\n(.*?)```", part, re.DOTALL) for line in block.splitlines()]
    return [line for line in found if line.startswith(programs)]


def shell(rig: Rig, line: str) -> subprocess.CompletedProcess[str]:
    """A line of the README, as an operator types it."""
    folders = [str(Path(sys.executable).parent), *([str(postgres_client())] if rig.kind == CLUSTER else [])]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "OPS_"))}
    path = os.pathsep.join([*folders, inherited["PATH"]])
    return subprocess.run(
        ["bash", "-c", line],
        cwd=rig.folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **rig.environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def done(rig: Rig, line: str) -> str:
    result = shell(rig, line)
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(params=[SQLITE, CLUSTER])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with on(request.param), start_rig(tmp_path, GATEWAY_COOLDOWN_AFTER="1000000") as running:
        yield running


class Traffic:
    """A customer who calls without a pause, and counts whole answers."""

    def __init__(self, rig: Rig, customer: Customer, alias: str) -> None:
        self._rig, self._customer, self._alias = rig, customer, alias
        self.whole = 0

    async def __aenter__(self) -> Traffic:
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._task

    async def reach(self, whole: int) -> None:
        async with asyncio.timeout(30):
            while self.whole < whole:
                assert not self._task.done(), "a call was refused"
                await asyncio.sleep(0.01)

    async def _run(self) -> None:
        async with client() as session:
            while not self._stopping.is_set():
                answer = await self._rig.chat(self._customer, self._alias, over=session, stream=self.whole % 2 == 0)
                assert answer.status == 200
                self.whole += 1


async def test_a_back_up_made_under_load_is_the_business_of_its_moment(rig: Rig) -> None:
    alias = rig.alias("sim:words=5", price=PRICE)
    calm, busy = rig.customer(models=[alias]), rig.customer(models=[alias])
    doomed = rig.desk.keys.issue(calm.email, name="revoked later", models=[alias])
    for _ in range(3):
        assert (await rig.chat(calm, alias)).status == 200
    balance, charged = rig.balance_nano(calm), rig.spent_nano(calm) // 3

    async with Traffic(rig, busy, alias) as traffic:
        await traffic.reach(20)
        least = traffic.whole
        programs = ("gateway backup",) if rig.kind == SQLITE else ("pg_dump",)
        (back_up,) = lines_of("Upgrade and back-up", *programs)
        await asyncio.to_thread(done, rig, back_up)
        most = traffic.whole + 1
        await traffic.reach(most + 10)

    # What a back-up cannot know.
    for _ in range(4):
        assert (await rig.chat(calm, alias)).status == 200
    late = rig.desk.keys.issue(calm.email, name="issued later", models=[alias])
    rig.desk.keys.revoke(doomed.id)
    rig.desk.credits.grant(calm.email, credits="5", reason="later", grant_key="later")
    total = traffic.whole
    assert rig.balance_nano(calm) == balance - 4 * charged + 5 * 10**9

    rig.close_desk()
    if rig.kind == SQLITE:
        refused = shell(rig, lines_of("Upgrade and back-up", "gateway restore")[0])
        assert refused.returncode == 2
        assert "stop it first" in refused.stderr
    assert rig.server.stop() == 0
    destroy(rig)
    for line in lines_of("Upgrade and back-up", *(("gateway restore",) if rig.kind == SQLITE else ("pg_restore",))):
        done(rig, line)
    for line in lines_of("Upgrade and back-up", "gateway migrate", "gateway reconcile"):
        done(rig, line)
    if rig.kind == CLUSTER:
        leave_spools(rig)
    rig.start()

    assert rig.balance_nano(calm) == balance
    kept = len(rig.records(busy, outcome="served"))
    assert least <= kept <= most < total
    assert (await rig.chat(calm, alias)).status == 200
    assert rig.balance_nano(calm) == balance - charged
    bearer = {"Authorization": f"Bearer {late.secret}"}
    assert (await rig.post(bearer, b"{}")).status == 401
    again = Customer(calm.email, doomed.id, doomed.secret, {"Authorization": f"Bearer {doomed.secret}"})
    assert (await rig.chat(again, alias)).status == 200, "revoked after the back-up: it has to be revoked again"
    rig.desk.credits.grant(calm.email, credits="5", reason="once more", grant_key="later")
    assert rig.balance_nano(calm) == balance - 2 * charged + 5 * 10**9
    await rig.settled(busy, within_s=60)
    if rig.kind == CLUSTER:
        await close_quarantine(rig)
    rig.reconcile()
    print(
        f"{rig.kind}: {kept} of {total} calls of the busy customer are in the back-up; the other {total - kept}, and 4 of the "
        f"calm one's, were charged after it and are as if never made"
    )
    refuse_newer(rig)


def leave_spools(rig: Rig) -> None:
    """What two dead workers of this machine had promised: one that the back-up knows, of a call that it does not; and one
    that began after it."""
    folder = Path(rig.environment["GATEWAY_SPOOL_DIR"])
    known = Life(*rig.sql("SELECT id, started_us FROM epoch ORDER BY id LIMIT 1")[0])
    for life in (known, Life(1_000_000, 1)):
        spool = Spool(path_of(folder, life), life)
        spool.append([Capture("01a22014-4fb6-7ea4-8218-7a3be9241280", 1001, 5, 6)])
        spool.close()


async def close_quarantine(rig: Rig) -> None:
    """The charge of a call that is not known waits for a person; the spool of a worker that is not known stays."""
    async with asyncio.timeout(30):
        while not (waiting := rig.sql("SELECT id, command FROM quarantine WHERE closed_us IS NULL")):
            await asyncio.sleep(0.1)
    ((number, command),) = waiting
    assert "01a22014-4fb6-7ea4-8218-7a3be9241280" in command
    closed = rig.run("quarantine", "--close", str(number), "--reason", "made after the back-up")
    assert closed.returncode == 0, closed.stderr
    assert [path.name for path in Path(rig.environment["GATEWAY_SPOOL_DIR"]).glob("1000000-*")] == ["1000000-1.spool"]
    await logged(rig, "a spool belongs to another database")


def refuse_newer(rig: Rig) -> None:
    """A back-up that a later version has made, put back under this one."""
    rig.close_desk()
    assert rig.server.stop() == 0
    with Sql(rig.database_url) as database:
        database.rows(
            "INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('models', '0099_later', '2030-01-01')"
        )
    for command in ("serve", "migrate"):
        told = rig.run(command)
        assert (told.returncode, told.stdout) == (2, "")
        assert re.fullmatch(
            r"gateway: the database \S+ was migrated by a newer version: this one does not know 0099_later;"
            r" install that version, or restore a back-up that this one made\n",
            told.stderr,
        ), told.stderr


def destroy(rig: Rig) -> None:
    """As a lost disk: nothing is left of the database."""
    if rig.kind == SQLITE:
        path = Path(rig.database_url.removeprefix("sqlite://"))
        for part in ("", "-wal", "-shm"):
            path.with_name(path.name + part).unlink(missing_ok=True)
        return
    server, name = rig.database_url.rsplit("/", 1)
    execute_now(f"{server}/postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
    execute_now(f"{server}/postgres", f'CREATE DATABASE "{name}"')
