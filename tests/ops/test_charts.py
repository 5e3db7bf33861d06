"""Charts draw whatever the desk's frames hold, many groups and none; a terminal gets their names."""

from __future__ import annotations

from pathlib import Path

import pytest

import ops
from ops import charts
from tests.models.shop import sqlite_only
from tests.ops.test_replay import live
from tests.ops.test_usage_sums import two_days

pytestmark = sqlite_only


def every(desk: ops.Desk) -> list[charts.Chart]:
    period = desk.usage.period(2)
    return [
        charts.spend(desk.usage.by("day")),
        charts.spend(desk.usage.by("day", "model")),
        charts.margin(desk.usage.by("model")),
        charts.latency(desk.usage.latency("model")),
        charts.latency(desk.usage.latency("day")),
        charts.errors(desk.usage.by("day")),
        charts.movements(desk.usage.movers(period.since, period.until)),
    ]


def test_every_chart_is_drawn_of_usage_and_of_none(desk: ops.Desk, address: str, tmp_path: Path) -> None:
    empty = [chart._repr_svg_() for chart in every(desk)]
    live(address, two_days)
    drawn = [chart._repr_svg_() for chart in every(desk)]
    assert all(text.lstrip().startswith("<?xml") for text in (*empty, *drawn))
    assert all(full != none for full, none in zip(drawn, empty, strict=True))
    assert [chart._repr_svg_() for chart in every(desk)] == drawn
    picture, size = every(desk)[0]._repr_png_()
    assert (picture[:4], size) == (b"\x89PNG", {"width": 912, "height": 326})
    assert repr(every(desk)[0]) == "<chart: Credits by day>"
    assert every(desk)[0].save(tmp_path / "spend.png").read_bytes().startswith(b"\x89PNG")


def test_a_frame_that_cannot_be_drawn_says_how_to_ask(desk: ops.Desk) -> None:
    with pytest.raises(ops.BadInput, match=r'desk\.usage\.by\("day"'):
        charts.spend(desk.usage.by("model"))
