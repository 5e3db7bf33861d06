"""The invariants: they hold after honest work, on a snapshot, under load; and each kind of damage is found by its number."""

from __future__ import annotations

import asyncio

import pytest

from models.catalog import add_model
from models.credits import grant, take_back
from models.database import Database
from models.ids import new_request_id, now_us
from models.invariants import Finding, check_invariants
from models.keys import revoke_key, set_key_models
from models.price_list import publish_price
from models.price_terms import price_from_usd
from models.prices import Meters
from models.records import Account
from tests.models.shop import Shop, damage

METERS = Meters(fresh=1_000, cached=200, written=0, output=300)


async def broken(database: Database) -> dict[int, Finding]:
    return {finding.number: finding for finding in await check_invariants(database) if not finding.ok}


async def test_all_hold_in_a_new_database(database: Database) -> None:
    findings = await check_invariants(database)
    assert [finding.number for finding in findings] == list(range(1, 14))
    assert all(finding.ok for finding in findings), findings


async def test_all_hold_after_every_kind_of_request(shop: Shop) -> None:
    await shop.serve(METERS)
    await shop.serve(METERS, outcome="left")
    await shop.serve(METERS, outcome="left", estimated=True)
    await shop.serve(Meters(), outcome="failed")
    await shop.serve(Meters(output=10**8))  # A lying provider: far above the hold and the balance.
    await shop.hold(amount_nano=0)
    await publish_price(
        shop.database, "olga", "small-chat", price_from_usd(input_usd="9", output_usd="9"), reason="later"
    )
    await grant(shop.database, "olga", "ada@example.com", 5, "gift", "gift")
    await take_back(shop.database, "olga", "ada@example.com", 9, "dispute", "dispute", "dispute", "writeoff")
    assert await broken(shop.database) == {}
    assert (await Account.get(id=shop.account_id)).balance_nano == 0


async def test_system_accounts_may_grow_beyond_64_bits(shop: Shop) -> None:
    for n in range(5):
        await grant(shop.database, "olga", "ada@example.com", 2**62 - 2_000 * 10**9, "much", f"much-{n}")
        await take_back(shop.database, "olga", "ada@example.com", 2**62 - 2_000 * 10**9, "back", f"back-{n}")
    assert await broken(shop.database) == {}


async def test_they_are_read_from_one_snapshot_while_others_write(shop: Shop) -> None:
    stop = asyncio.Event()

    async def keep_serving() -> None:
        while not stop.is_set():
            await shop.serve(METERS)

    writer = asyncio.create_task(keep_serving())
    for _ in range(5):
        assert await broken(shop.database) == {}
    stop.set()
    await writer


async def test_a_balance_edited_by_hand_is_found(shop: Shop) -> None:
    await damage(shop.database, "UPDATE account SET balance_nano = balance_nano + 7 WHERE id = %d", shop.account_id)
    found = await broken(shop.database)
    assert set(found) == {1, 2}
    assert f"account {shop.account_id}: balance off by 7 nano" in found[2].detail


async def test_a_held_amount_without_its_hold_is_found(shop: Shop) -> None:
    await damage(shop.database, "UPDATE account SET held_nano = 5 WHERE id = %d", shop.account_id)
    assert set(await broken(shop.database)) == {2}


async def test_a_lost_or_stray_charge_is_found(shop: Shop) -> None:
    request_id = await shop.serve(METERS)
    await damage(shop.database, "DELETE FROM transfer WHERE request_id = '%s'", request_id)
    assert set(await broken(shop.database)) == {1, 2, 3}


async def test_a_charge_of_a_hold_that_was_not_captured_is_found(shop: Shop) -> None:
    request_id = await shop.serve(METERS)
    await damage(shop.database, "UPDATE hold SET status = 'released' WHERE request_id = '%s'", request_id)
    assert set(await broken(shop.database)) == {3}


async def test_a_charge_without_its_record_is_found(shop: Shop) -> None:
    await shop.serve(METERS)
    await damage(shop.database, "DELETE FROM usage WHERE request_id = '%s'", await shop.serve(METERS))
    found = await broken(shop.database)
    assert set(found) == {4}
    assert "1 charges without a usage record" in found[4].detail


@pytest.mark.parametrize("column", ["fresh_tokens", "output_tokens"])
async def test_a_charge_that_is_not_price_times_tokens_is_found(shop: Shop, column: str) -> None:
    request_id = await shop.serve(METERS)
    await damage(shop.database, f"UPDATE usage SET {column} = {column} + 1 WHERE request_id = '%s'", request_id)
    found = await broken(shop.database)
    assert set(found) == {4}
    assert request_id in found[4].detail


async def test_a_price_changed_after_the_fact_is_found(shop: Shop) -> None:
    await shop.serve(METERS)
    await damage(shop.database, "UPDATE price SET input_nano = input_nano + 1")
    assert set(await broken(shop.database)) == {4}


async def test_an_estimate_above_its_hold_is_found(shop: Shop) -> None:
    await shop.serve(Meters(output=10**5), estimated=True)
    found = await broken(shop.database)
    assert set(found) == {4}
    assert "above its hold" in found[4].detail


async def test_a_charge_for_a_failed_request_is_found(shop: Shop) -> None:
    request_id = await shop.serve(METERS)
    await damage(shop.database, "UPDATE usage SET outcome = 'failed' WHERE request_id = '%s'", request_id)
    assert set(await broken(shop.database)) == {5}


async def test_a_call_out_of_scope_is_found_but_not_one_of_an_earlier_scope(shop: Shop) -> None:
    other = await add_model(shop.database, "olga", "large-chat", context_tokens=9, max_output_tokens=9)
    await shop.serve(METERS)
    await set_key_models(shop.database, "olga", shop.key_id, ["large-chat"])
    assert await broken(shop.database) == {}
    await set_key_models(shop.database, "olga", shop.key_id, ["small-chat"])
    secret = await add_model(shop.database, "olga", "secret-chat", context_tokens=9, max_output_tokens=9)
    await shop.serve(METERS, model_id=other.id)
    assert await broken(shop.database) == {}
    await shop.serve(METERS, model_id=secret.id)
    found = await broken(shop.database)
    assert set(found) == {6}
    assert f"key {shop.key_id} called secret-chat" in found[6].detail


async def test_a_missing_guard_is_found(shop: Shop) -> None:
    on = " ON transfer" if shop.database.dialect == "postgres" else ""
    await shop.database.connection.execute_script(f"DROP TRIGGER transfer_no_update{on}")
    found = await broken(shop.database)
    assert set(found) == {7}
    assert "gateway migrate" in found[7].detail


async def test_a_grant_made_twice_is_found(shop: Shop) -> None:
    await shop.database.connection.execute_script("DROP INDEX transfer_once_per_grant_key")
    await shop.database.connection.execute_script(
        "INSERT INTO transfer (debit_account, credit_account, amount_nano, kind, at_us, grant_key)"
        " VALUES (1, 2, 5, 'grant', 1, 'welcome-ada')"
    )
    assert set(await broken(shop.database)) == {7, 8}


async def test_a_hold_left_by_a_dead_worker_is_found(shop: Shop) -> None:
    await shop.hold()
    assert await broken(shop.database) == {}
    await shop.hold(epoch_id=await shop.epoch(ended=True))
    assert set(await broken(shop.database)) == {9}


async def test_a_call_with_a_revoked_key_is_found(shop: Shop) -> None:
    await revoke_key(shop.database, "olga", shop.key_id)
    await shop.serve(METERS)
    assert await broken(shop.database) == {}
    await shop.serve(METERS, at_us=now_us() + 10_000_000)
    assert set(await broken(shop.database)) == {10}


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET reason = 'innocent' WHERE id = 3", "DELETE FROM audit WHERE id = 3"]
)
async def test_an_audit_log_that_was_edited_is_found(shop: Shop, statement: str) -> None:
    await damage(shop.database, statement)
    assert set(await broken(shop.database)) == {11}


async def test_a_settlement_in_quarantine_is_found(shop: Shop) -> None:
    await shop.database.connection.execute_script(
        f"INSERT INTO quarantine (at_us, request_id, error, command) VALUES (1, '{new_request_id(1)}', 'x', 'y')"
    )
    assert set(await broken(shop.database)) == {12}
