"""Fixtures: a server with two workers on PostgreSQL and Redis, whose numbers are those of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig import Rig, close_desks, start_rig
from tests.stores import CLUSTER, on


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    close_desks()
    with (
        on(CLUSTER),
        start_rig(
            tmp_path_factory.mktemp("watched"),
            GATEWAY_COOLDOWN_AFTER="1",
            GATEWAY_COOLDOWN_S="60",
            GATEWAY_LOG_FORMAT="json",
        ) as rig,
    ):
        yield rig
        rig.reconcile()
    close_desks()
