"""Frames of the desk as a notebook shows them: read by people, and still data frames."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from ops.frames import EXACT, MOMENT, frame

KINDS = {
    "email": "str",
    "requests": "Int64",
    "account_id": "Int64",
    "credits": EXACT,
    "day": MOMENT,
    "at": MOMENT,
    "models": EXACT,
}
DAY_US = 1_790_812_800_000_000
ADA: dict[str, Any] = {
    "email": "<b>ada</b>", "requests": 12_345, "account_id": 1002, "credits": Decimal("1234567.000000001"), "day": DAY_US,
    "at": DAY_US + 1_000_000, "models": ["a", "b"],
}  # fmt: skip
NOBODY: dict[str, Any] = {**dict.fromkeys(KINDS), "email": ""}


def test_numbers_are_set_apart_moments_are_short_and_nothing_is_cut_off() -> None:
    table = frame([ADA, NOBODY], KINDS)
    shown = table._repr_html_()
    for text in (
        "&lt;b&gt;ada&lt;/b&gt;",
        ">12,345<",
        ">1002<",
        ">1,234,567.000000001<",
        ">2026-10-01<",
        ">2026-10-01 00:00:01<",
        ">a, b<",
    ):
        assert text in shown
    assert ">at (UTC)<" in shown
    for text in ("NaT", "None", "NA", "<b>"):
        assert text not in shown


def test_what_is_chosen_and_computed_looks_the_same_and_is_a_frame() -> None:
    table = frame([ADA, ADA], KINDS)
    assert ">24,690<" in table.groupby("email")[["requests"]].sum()._repr_html_()
    assert "&lt;b&gt;ada" in table.groupby("email")[["requests"]].sum()._repr_html_()
    assert table[["requests"]].to_csv(index=False) == "requests\n12345\n12345\n"
    assert "12345" in repr(table)


def test_rows_that_have_names_show_them() -> None:
    turned = frame([ADA, ADA], KINDS).T
    for name in KINDS:
        assert f">{name}<" in turned._repr_html_()
    assert ">0<" not in frame([ADA], KINDS)._repr_html_()
    assert ">0<" not in frame([ADA, NOBODY, ADA], KINDS).iloc[[0, 2]]._repr_html_()
    both = frame([ADA, ADA], KINDS).set_index(["email", "account_id"])
    both.index.names = [None, None]
    assert ">1002<" in both[["requests"]]._repr_html_()


def test_a_long_table_says_how_long_it_is_and_an_empty_one_that_it_is() -> None:
    assert "The first 20 of 1,000 rows." in frame([ADA] * 1_000, KINDS)._repr_html_()
    assert "(no rows)" in frame([], KINDS)._repr_html_()
