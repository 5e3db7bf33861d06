"""Owns reading `/metrics` as Prometheus does: samples by name and labels, over all workers of a server."""

from __future__ import annotations

import asyncio
import time

from prometheus_client.parser import text_string_to_metric_families

from tests.rig import Rig


class Numbers:
    """One reading of `/metrics`."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of what has these labels; 0 where there is nothing."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def has(self, name: str) -> bool:
        return any(sample.name == name for sample in self.samples)

    def labels(self, name: str) -> dict[str, set[str]]:
        """Every value that each label of this name has."""
        found: dict[str, set[str]] = {}
        for sample in self.samples:
            if sample.name == name:
                for label, value in sample.labels.items():
                    found.setdefault(label, set()).add(value)
        return found


async def numbers(rig: Rig) -> Numbers:
    # What a worker has counted is written down when it is asked; then each of them shows the numbers of all.
    return Numbers((await asyncio.to_thread(rig.workers.metrics))[-1])


async def wait_for(rig: Rig, wanted: str, value: float, *, within_s: float = 20, **labels: str) -> Numbers:
    """Read until the number is what it should be."""
    deadline = time.monotonic() + within_s
    while (now := await numbers(rig))(wanted, **labels) != value:
        assert time.monotonic() < deadline, f"{wanted}{labels} is {now(wanted, **labels)}, not {value}"
        await asyncio.sleep(0.1)
    return now
