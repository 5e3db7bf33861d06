"""Fixtures of the whole suite: one rig for a session, shared by the tests that need no settings of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.rig import Rig, start_rig

# The same examples every time, and no deadline on a noisy machine: what is new is looked for by hand, with LONG=1.
settings.register_profile("steady", deadline=None, derandomize=not os.environ.get("LONG"), database=None)
settings.load_profile("steady")


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
