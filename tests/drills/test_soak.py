"""Faults 53, at length: tens of thousands of requests of every ending leave neither connections nor memory behind."""

from __future__ import annotations

import pytest

from tests.faults.test_transport import keep_flat
from tests.rig import Rig


@pytest.mark.drill
async def test_thirty_thousand_requests_leave_nothing_behind(rig: Rig) -> None:
    await keep_flat(rig, 3_000, 30_000, mib=24)
