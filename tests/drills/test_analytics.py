"""Reports by account and model, of a month and of all requests of a large database: in seconds, and with little memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.large import REQUESTS
from tests.rig import ROOT

pytestmark = [pytest.mark.drill, pytest.mark.alone]

REPORT_S, MOST_MIB = 10, 1_024
_REPORT = """
    import time
    from pathlib import Path
    import ops

    desk = ops.connect({url!r}, "olga")
    period = desk.usage.period(30)
    started = time.monotonic()
    report = desk.usage.by("account", "model", since=period.since, until=period.until)
    took_s = time.monotonic() - started
    once = desk.usage.by(since=period.since, until=period.until)
    assert report["requests"].sum() == once["requests"].sum() > 0
    assert sum(report["credits"]) == sum(once["credits"]) > 0
    started = time.monotonic()
    everything = desk.usage.by("account", "model")
    all_s = time.monotonic() - started
    assert everything["requests"].sum() == {requests}
    started = time.monotonic()
    desk.usage.latency("model", since=period.since, until=period.until)
    percentiles_s = time.monotonic() - started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(len(report), took_s, all_s, percentiles_s, int(peak.split()[1]) / 1024)
"""


def test_a_month_by_account_and_model_takes_seconds(filled: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_REPORT).format(url=filled, requests=REQUESTS)],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, took_s, all_s, percentiles_s, mib = map(float, done.stdout.split())
    told = f"{rows:,.0f} rows in {took_s:.1f} s, a year's in {all_s:.1f} s, percentiles in {percentiles_s:.1f} s, {mib:.0f} MiB"
    print(told)  # noqa: T201
    assert max(took_s, all_s) < REPORT_S
    assert percentiles_s < 3 * REPORT_S
    assert mib < MOST_MIB
