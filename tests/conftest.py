"""Fixtures of the whole suite: one rig for a session, shared by the tests that need no settings of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig import Rig, start_rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A running gateway with quick timeouts, on SQLite; reconciled when the session is over."""
    with start_rig(
        tmp_path_factory.mktemp("rig"),
        GATEWAY_UPSTREAM_CONNECT_TIMEOUT_S="1",
        GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S="2",
        GATEWAY_UPSTREAM_IDLE_TIMEOUT_S="2",
        GATEWAY_DRAIN_S="2",
        GATEWAY_COOLDOWN_AFTER="1000000",
    ) as running:
        yield running
        running.reconcile()
