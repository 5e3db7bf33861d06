"""A log that cannot be written, or that nobody reads: requests, money and the end of the server go on without it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import ROOT, Rig, close_desks, start_rig
from tests.stores import CLUSTER, SQLITE, on
from tests.watching.numbers import numbers, wait_for

_PIPE_BYTES = 4096
_WORKER_LINES = 300
# Logs lines of many lengths as a worker does, and ends at once.
_WRITER = """
import sys
from gateway.log_lines import lines
lines.start()
for number in range(int(sys.argv[2])):
    lines.write('{"who": %s, "number": %d, "text": "%s"}' % (sys.argv[1], number, "x" * (number * 37 % 1500)))
"""
# Logs to a file that may not grow for ever, and tells at its end how many lines are missing.
_FILLER = """
import atexit, resource, sys
from gateway.log_lines import lines
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
atexit.register(lambda: print(lines.lost))
lines.start()
for number in range(int(sys.argv[2])):
    lines.write("%d %s" % (number, "x" * 300))
"""


async def a_failing_first_route_is_charged_all_the_same(rig: Rig, times: int) -> None:
    model = rig.alias("sim:status=500,tag=unlogged", "sim:words=4,prompt=9,tag=unlogged")
    ada = rig.customer(models=[model])
    for stream in (False, True) * times:
        answer = await rig.chat(ada, model, stream=stream)
        assert answer.status == 200
        assert not stream or answer.is_done
    await rig.settled(ada, records=2 * times)
    assert rig.spent_nano(ada) == sum(record["charge_nano"] for record in rig.records(ada, "served")) > 0


async def test_on_a_full_disk_requests_fall_back_and_are_charged(tmp_path: Path) -> None:
    (tmp_path / "gateway.log").symlink_to("/dev/full")
    close_desks()
    with on(SQLITE), start_rig(tmp_path, GATEWAY_COOLDOWN_AFTER="1000000") as rig:
        await a_failing_first_route_is_charged_all_the_same(rig, 3)
        # Of each, that an attempt failed, and its own.
        async with asyncio.timeout(20):
            while (await numbers(rig))("gateway_log_lines_lost") < 12:
                await asyncio.sleep(0.1)
        rig.reconcile()
        assert rig.server.stop() == 0
    close_desks()


@pytest.mark.drill
async def test_on_a_full_disk_workers_are_replaced(tmp_path: Path) -> None:
    """The main process tells of every worker that dies."""
    (tmp_path / "gateway.log").symlink_to("/dev/full")
    close_desks()
    with on(CLUSTER), start_rig(tmp_path, GATEWAY_COOLDOWN_AFTER="1000000") as rig:
        rig.workers.kill(rig.workers.pids[0])
        await wait_for(rig, "gateway_worker_restarts_total", 1)
        await wait_for(rig, "gateway_workers", 2)
        await a_failing_first_route_is_charged_all_the_same(rig, 1)
        rig.reconcile()
        assert rig.server.stop() == 0
    close_desks()


@pytest.mark.drill
async def test_a_log_that_nobody_reads_keeps_nobody_waiting(tmp_path: Path) -> None:
    close_desks()
    os.mkfifo(tmp_path / "gateway.log")
    reader = os.open(tmp_path / "gateway.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        with on(SQLITE), start_rig(tmp_path, GATEWAY_COOLDOWN_AFTER="1000000") as rig:
            # Several times what the pipe takes.
            await a_failing_first_route_is_charged_all_the_same(rig, 15)
            rig.reconcile()
            assert rig.server.stop(within_s=15) == 0
    finally:
        os.close(reader)
        close_desks()


def test_lines_of_several_processes_stay_whole_and_none_is_lost_at_the_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    with os.fdopen(reading, "rb") as log:
        workers = [
            subprocess.Popen([sys.executable, "-c", _WRITER, str(who), str(_WORKER_LINES)], cwd=ROOT, stderr=writing)
            for who in range(3)
        ]
        os.close(writing)
        told = [json.loads(line) for line in log]
        assert [worker.wait(10) for worker in workers] == [0, 0, 0]
    for who in range(3):
        assert [line["number"] for line in told if line["who"] == who] == list(range(_WORKER_LINES))


def test_of_a_disk_that_becomes_full_every_line_is_there_or_counted(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        told = subprocess.run(
            [sys.executable, "-c", _FILLER, "100000", "1000"], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, check=True
        )
    whole = [line for line in (tmp_path / "log").read_bytes().split(b"\n")[:-1] if line.endswith(b"x" * 300)]
    assert whole
    assert [int(line.split()[0]) for line in whole] == list(range(len(whole)))
    assert len(whole) + int(told.stdout) == 1000
