"""What two workers on PostgreSQL and Redis live through: a database that is gone, and a killed worker."""

from __future__ import annotations

import pytest

from tests.faults import test_postgres
from tests.faults.outages import Outage
from tests.faults.test_crashes import (
    crash,
    test_one_worker_is_killed_and_another_takes_its_place_while_the_others_serve_on,
)
from tests.faults.test_postgres import outage

__all__ = [
    "crash",
    "outage",
    "test_one_worker_is_killed_and_another_takes_its_place_while_the_others_serve_on",
]

pytestmark = pytest.mark.drill


async def test_postgresql_is_gone_while_answers_run(outage: Outage) -> None:
    await test_postgres.test_while_the_database_is_away_running_answers_finish_and_nobody_else_is_served(
        outage, "crashed"
    )


async def test_postgresql_says_nothing_though_it_hears_everything(outage: Outage) -> None:
    """Nobody knows what of it was stored: repeating it must count for nothing."""
    await test_postgres.test_while_the_database_is_away_running_answers_finish_and_nobody_else_is_served(
        outage, "speechless"
    )
