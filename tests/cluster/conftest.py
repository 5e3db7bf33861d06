"""Fixtures: every rig of this folder stands on PostgreSQL and Redis, whatever the others stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig import Rig, start_rig
from tests.stores import CLUSTER, on


@pytest.fixture(scope="module", autouse=True)
def _on_the_cluster() -> Iterator[None]:
    with on(CLUSTER):
        yield


@pytest.fixture(scope="module")
def rig(_on_the_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two workers, with quick timeouts; reconciled when the file is over."""
    with start_rig(
        tmp_path_factory.mktemp("cluster"),
        GATEWAY_UPSTREAM_CONNECT_TIMEOUT_S="1",
        GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S="2",
        GATEWAY_UPSTREAM_IDLE_TIMEOUT_S="2",
        GATEWAY_DRAIN_S="2",
        GATEWAY_COOLDOWN_AFTER="1000000",
    ) as running:
        yield running
        running.reconcile()
