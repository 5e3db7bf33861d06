"""Fixtures of the whole suite: one rig for a session, shared by the tests that need no settings of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.rig import Rig, start_rig
from tests.stores import CLUSTER, kind

# The same examples every time, and no deadline on a noisy machine: what is new is looked for by hand, with LONG=1.
settings.register_profile("steady", deadline=None, derandomize=not os.environ.get("LONG"), database=None)
settings.load_profile("steady")

# Of the drills, and of the quick tests.
LONGEST = {
    "test_soak.py", "test_api_fuzz.py", "test_alerts.py", "test_programs.py", "test_command_lines.py", "test_chaos.py",
    "test_cli.py", "test_upstream.py", "test_demo.py", "test_body_fuzz.py", "test_shutdown.py", "test_log_lines.py",
}  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the other kind of rig alone; the longest files first, that no process ends up alone with one."""
    left_out = [item for item in items if not _is_about(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_about(item)]
    items.sort(key=lambda item: item.path.name not in LONGEST)


def _is_about(item: pytest.Item) -> bool:
    only = item.get_closest_marker("only")
    stands_on = CLUSTER if item.path.parent.name == "cluster" else kind()
    return only is None or stands_on in only.args


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A running gateway with quick timeouts; reconciled when the session is over."""
    with start_rig(
        tmp_path_factory.mktemp("rig"),
        GATEWAY_UPSTREAM_CONNECT_TIMEOUT_S="1",
        GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S="2",
        GATEWAY_UPSTREAM_IDLE_TIMEOUT_S="2",
        GATEWAY_DRAIN_S="2",
        GATEWAY_COOLDOWN_AFTER="1000000",
        GATEWAY_SIGNUP="open",
        GATEWAY_TRUSTED_PROXIES="127.0.0.1",
    ) as running:
        yield running
        running.reconcile()
