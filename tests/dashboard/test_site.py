"""Compiled templates are kept for the next start, by whatever has compiled them."""

from __future__ import annotations

import sys
from pathlib import Path

import jinja2
import pytest

from gateway.dashboard import site
from gateway.settings import Settings


def test_another_version_of_jinja_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "__pycache__"
    folder.mkdir()
    monkeypatch.setattr(site, "__file__", str(tmp_path / "site.py"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def kept_after_a_start() -> list[str]:
        site.Site(Settings(_env_file=None)).templates.get_template("trouble.html")  # type: ignore[call-arg]
        return sorted(path.name for path in folder.iterdir())

    assert len(kept_after_a_start()) == 1
    monkeypatch.setattr(jinja2, "__version__", "3.99.0")
    kept = kept_after_a_start()
    assert len(kept) == 2
    assert kept_after_a_start() == kept
