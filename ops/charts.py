"""Owns the charts of usage, in one calm style. Their frames come from `desk.usage`; the sums in them stay exact, only what
is drawn is rounded.

charts.spend(desk.usage.by("day", "model", since=…))
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from models.errors import BadInput
from models.prices import NANO_PER_CREDIT
from ops.table_files import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#3f7fae", "#e0a458", "#6aa784", "#b5656b", "#8a7fb0", "#7f8c8d")
_GRAY, _INK, _WARM = "#b4bac1", "#767d86", "#b5656b"  # the ink can be read on white and on black: nothing is behind it
_MOST = 5  # So many groups have a colour of their own; the smaller ones are one together.
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#8a919999",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "grid.color": "#8a919933",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "svg.hashsalt": "charts",
}


class Chart:
    """A picture that a notebook shows, and a terminal names. It is drawn when it is looked at."""

    def __init__(self, title: str, draw: Callable[[Axes], None], of: pd.DataFrame, *, height: float = 3.4) -> None:
        self.title = title
        self._draw = draw
        self._is_empty = of.empty
        self._height = height

    def save(self, path: str | Path) -> Path:
        """As a file; its ending chooses the kind: .svg, .png or .pdf."""
        target = Path(path)
        with _style():
            self._figure.savefig(target, dpi=160, facecolor="white")
        return target

    @cached_property
    def _figure(self) -> Figure:
        with _style():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(9.5, self._height), layout="constrained")
            axes = figure.subplots()
            if self._is_empty:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "nothing to show in this period", ha="center", transform=axes.transAxes)
            else:
                self._draw(axes)
            axes.set_title(self.title)
        return figure

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        with _style():
            self._figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """For a notebook that somebody else ran: there JupyterLab shows no SVG. And how large it is on the screen."""
        picture = io.BytesIO()
        with _style():
            self._figure.savefig(picture, format="png", dpi=160)
        width, height = self._figure.get_size_inches()
        return picture.getvalue(), {"width": round(width * 96), "height": round(height * 96)}

    def __repr__(self) -> str:
        return f"<chart: {self.title}>"


def spend(usage: pd.DataFrame, title: str = "Credits by day") -> Chart:
    """What was charged, a bar a day. `usage` is by "day", or by "day" and one more, whose groups are stacked."""
    when, other = _groups(usage, "day")
    table = usage.assign(credits=usage["credits"].astype(float))
    if other is None:
        wide = table.set_index(when)[["credits"]]
    else:
        wide = _largest(table.pivot_table(index=when, columns=other, values="credits", aggfunc="sum", fill_value=0.0))

    def draw(axes: Axes) -> None:
        bottom = pd.Series(0.0, index=wide.index)
        for name, color in zip(wide.columns, _palette(wide.columns), strict=True):
            axes.bar(list(wide.index), wide[name], bottom=bottom, width=0.85, color=color, label=name)
            bottom += wide[name]
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("credits")
        _dates(axes, wide.index)
        if other is not None:
            _legend(axes)

    return Chart(title, draw, usage)


def margin(usage: pd.DataFrame, title: str = "Where the credits went") -> Chart:
    """Each group's credits as provider cost, margin, and what was charged without a known cost. By any one group."""
    (name, *_), table = list(usage.columns), usage.sort_values("credits", key=lambda column: column.astype(float))
    parts = {"cost": _GRAY, "margin": _COLORS[0], "uncosted": _COLORS[1]}
    labels = [_label(value) for value in table[name]]

    def draw(axes: Axes) -> None:
        left = pd.Series(0.0, index=table.index)
        for part, color in parts.items():
            values = table[part].astype(float)
            if values.any():
                axes.barh(labels, values, left=left, color=color, height=0.6, label=part)
                left += values
        for label, end, percent in zip(labels, left, table["margin_percent"], strict=True):
            if pd.notna(percent):
                axes.annotate(f" {percent:.0f} %", (max(end, 0), label), va="center", color=_INK)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_xlabel("credits; the number is the margin's share of what has a known cost")
        _legend(axes)

    return Chart(title, draw, usage, height=1.4 + 0.38 * max(len(table), 2))


def latency(percentiles: pd.DataFrame, title: str = "Time to the last byte") -> Chart:
    """From the median to the 99th percentile, a line per group. `percentiles` is by one group; of "day", a course of time."""
    name = str(percentiles.columns[0])
    seconds = {p: percentiles[f"total_p{p}_ms"].astype(float) / 1_000 for p in (50, 90, 99)}

    def by_time(axes: Axes) -> None:
        for (percent, values), color in zip(seconds.items(), (_COLORS[0], _COLORS[1], _GRAY), strict=True):
            axes.plot(list(percentiles[name]), values, color=color, linewidth=2, label=f"p{percent}")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("seconds")
        _dates(axes, percentiles[name])
        _legend(axes)

    def by_group(axes: Axes) -> None:
        labels = [_label(value) for value in percentiles[name]]
        axes.hlines(labels, seconds[50], seconds[99], color=_GRAY, linewidth=3, zorder=1)
        for (percent, values), color in zip(seconds.items(), (_COLORS[0], _COLORS[1], _WARM), strict=True):
            axes.scatter(values, labels, s=60, color=color, label=f"p{percent}", zorder=2)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=0)
        axes.margins(y=0.3)
        axes.set_xlabel("seconds")
        _legend(axes)

    if name in ("day", "hour"):
        return Chart(title, by_time, percentiles)
    return Chart(title, by_group, percentiles, height=1.4 + 0.42 * max(len(percentiles), 2))


def errors(usage: pd.DataFrame, title: str = "Requests that failed, per cent") -> Chart:
    """The share of requests that failed, by day; days above five per cent are marked. `usage` is by "day" or "hour"."""
    when, _ = _groups(usage, "day", "hour")
    values = usage["error_percent"].astype(float)

    def draw(axes: Axes) -> None:
        axes.fill_between(list(usage[when]), values, color=_GRAY, alpha=0.5, linewidth=0)
        axes.plot(list(usage[when]), values, color=_INK, linewidth=1.4)
        high = values > 5
        axes.scatter(list(usage[when][high]), values[high], color=_WARM, s=36, zorder=3)
        for moment, value in zip(usage[when][high], values[high], strict=True):
            axes.annotate(
                f"{moment:%-d %b}  {value:.0f} %", (moment, value), xytext=(8, -3), textcoords="offset points"
            )
        axes.set_ylim(bottom=0)
        axes.set_ylabel("%")
        _dates(axes, usage[when])

    return Chart(title, draw, usage, height=2.6)


def movements(movers: pd.DataFrame, title: str = "Largest changes of spend") -> Chart:
    """A bar for each mover, to the right for more and to the left for less."""
    name, table = str(movers.columns[0]), movers.iloc[::-1]
    values = table["change"].astype(float)

    def draw(axes: Axes) -> None:
        colors = [_COLORS[2] if value >= 0 else _WARM for value in values]
        axes.barh([str(value) for value in table[name]], values, color=colors, height=0.6)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("credits more or less than in the period before")

    return Chart(title, draw, movers, height=1.2 + 0.38 * max(len(table), 2))


def replayed(replay: pd.DataFrame, title: str = "Billed, and what it would have been") -> Chart:
    """Two bars for each account; `replay` is the frame of a proposal's replay."""
    sums = replay.groupby("account")[["billed_nano", "replayed_nano"]].sum().astype("int64")
    table = (sums.sort_values("billed_nano") / NANO_PER_CREDIT).tail(_MOST * 2)

    def draw(axes: Axes) -> None:
        places = pd.Series(range(len(table)), index=table.index)
        axes.barh(places + 0.19, table["billed_nano"], height=0.36, color=_GRAY, label="billed")
        axes.barh(
            places - 0.19, table["replayed_nano"], height=0.36, color=_COLORS[0], label="under the proposed price"
        )
        axes.set_yticks(places, table.index)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.05)
        axes.set_xlabel("credits")
        _legend(axes)

    return Chart(title, draw, replay, height=1.6 + 0.5 * max(len(table), 2))


def peaks(limits: pd.DataFrame, title: str = "The busiest window, per cent of the limit") -> Chart:
    """A bar for each, the nearest to its limit on top; from 80 per cent on they are marked. `limits`: desk.limits.peaks."""
    table = limits.head(_MOST * 2).iloc[::-1]
    percent = table["percent"].astype(float)
    labels = [f"{row.name}: {row.unit}" for row in table[["name", "unit"]].itertuples(index=False, name="Peak")]

    def draw(axes: Axes) -> None:
        places = range(len(table))
        axes.barh(places, percent, height=0.6, color=[_WARM if each >= 80 else _COLORS[0] for each in percent])
        for place, each in zip(places, percent, strict=True):
            ends, color = ("right", "white") if each >= 80 else ("left", _INK)
            axes.annotate(f" {each:.0f} % ", (each, place), va="center", ha=ends, color=color)
        axes.axvline(100, color=_INK, linewidth=0.8)
        axes.set_yticks(places, labels)
        axes.set_xlim(0, max([112, *(each * 1.1 for each in percent)]))
        axes.grid(axis="y", visible=False)

    return Chart(title, draw, limits, height=1.2 + 0.38 * max(len(table), 2))


# ── the common style ──────────────────────────────────────────────────────────────────────────────────────────────


def _style() -> AbstractContextManager[None]:
    """While a chart is drawn and while it is written; nobody else's settings are changed."""
    mpl = need("matplotlib")
    return mpl.rc_context(_STYLE)


def _groups(usage: pd.DataFrame, *wanted: str) -> tuple[str, str | None]:
    """The column of time, and the other one that the frame is grouped by."""
    names = [str(name) for name in usage.columns[: list(usage.columns).index("requests")]]
    when = next((name for name in wanted if name in names), None)
    if when is None or len(names) > 2:
        shown = " or ".join(f'"{name}"' for name in wanted)
        raise BadInput(f"usage: must be grouped by {shown} and at most one more, like desk.usage.by({shown}, …)")
    return when, next((name for name in names if name != when), None)


def _largest(wide: pd.DataFrame) -> pd.DataFrame:
    order = wide.sum().sort_values(ascending=False).index
    small = order[_MOST:]
    kept = wide[order[:_MOST]]
    return kept.assign(others=wide[small].sum(axis=1)) if len(small) else kept


def _palette(names: Sequence[object] | pd.Index) -> list[str]:
    return [_GRAY if name == "others" else _COLORS[n % len(_COLORS)] for n, name in enumerate(names)]


def _label(value: object) -> str:
    return f"{value:%Y-%m-%d}" if isinstance(value, pd.Timestamp) else str(value)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=6, borderaxespad=0.2)


def _dates(axes: Axes, moments: pd.Series | pd.Index) -> None:
    """An axis of time; of a week at least, so that a first day is one bar of it."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    locator = AutoDateLocator(maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.margins(x=0.01)
    if str(moments.name) == "day" and max(moments) - min(moments) < pd.Timedelta(days=6):
        axes.set_xlim(date2num(max(moments)) - 6.5, date2num(max(moments)) + 0.5)
