"""Owns how a notebook becomes a test: nbval runs its cells, each notebook on a copy of the sample database of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Before its first cell a notebook gets its kernel, which inherits the variables of this moment."""
    notebook = item.parent
    if type(notebook).__name__ != "IPyNbFile" or notebook is None or getattr(notebook, "kernel", None) is not None:
        return (yield)
    # Other tests run without any of this.
    from tests.notebooks.sandbox import environment, sample_copy

    folders: pytest.TempPathFactory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    own = folders.mktemp(notebook.path.stem)
    shared = folders.getbasetemp()
    if hasattr(item.config, "workerinput"):
        shared = shared.parent
    with contextlib.ExitStack() as opened:
        opened.enter_context(environment(sample_copy(shared / "sample", own)))
        return (yield)
