"""The audit log: whoever edits it is found, at the first row that is wrong; and it keeps no customer's address."""

from __future__ import annotations

from typing import Any

import pytest

from models.accounts import create_account, suspend_account
from models.audit import AuditCheck, audit_rows, verify_audit
from models.changes import audit_hash, operator_write
from models.credits import grant
from models.database import Database
from models.keys import disable_key
from models.records import Audit, Transfer
from tests.models.shop import Shop, damage

ADA = "ada@example.com"


async def verify(shop: Shop, known_head: str | None = None) -> AuditCheck:
    return await verify_audit(shop.database, known_head=known_head)


async def edit(shop: Shop, row: dict[str, Any], *, instead_of: int | None = None) -> str:
    """Store a row with the hash that it should have; and return that."""
    hash_ = audit_hash(row)
    if instead_of is not None:
        await damage(shop.database, f"DELETE FROM audit WHERE id = {instead_of}")
    id_ = "" if instead_of is None else "id, "
    await damage(
        shop.database,
        f"INSERT INTO audit ({id_}at_us, operator, action, subject, reason, previous_hash, hash) VALUES"
        f" ({'' if instead_of is None else f'{instead_of}, '}{row['at_us']}, '{row['operator']}', '{row['action']}',"
        f" '{row['subject']}', '{row['reason']}', '{row['previous_hash']}', '{hash_}')",
    )
    return hash_


def forged(previous_hash: str) -> dict[str, Any]:
    texts = {"operator": "mallory", "action": "credits.grant", "subject": "account 1001", "reason": "none"}
    return {"at_us": 1, **texts, "before": None, "after": None, "previous_hash": previous_hash}


async def test_an_honest_log_is_whole_and_its_head_stays_in_it(shop: Shop) -> None:
    first = await verify(shop)
    assert (first.ok, first.rows) == (True, await Audit.all().count())
    assert f"{first.rows} rows" in repr(first)
    await grant(shop.database, "olga", ADA, 5, "gift", "gift")
    later = await verify(shop, known_head=first.head)
    assert (later.ok, later.rows) == (True, first.rows + 1)
    assert later.head != first.head


async def test_a_write_within_another_is_of_the_same_operator_on_the_same_database(shop: Shop) -> None:
    before = await verify(shop)
    other = Database(shop.database.url, shop.database.context)

    async def suspend_twice(first: Database, second: Database, operator: str) -> None:
        async with operator_write(first, "olga"):
            await suspend_account(first, "olga", ADA)
            await suspend_account(second, operator, ADA)

    for database, operator in ((shop.database, "otto"), (other, "olga")):
        with pytest.raises(RuntimeError, match=f"write of {operator} .* cannot be part of one of olga"):
            await suspend_twice(shop.database, database, operator)
    assert (await verify(shop)).rows == before.rows


@pytest.mark.parametrize("column", ["operator", "action", "subject", "reason", "at_us", "before", "after", "hash"])
async def test_an_altered_row_is_named(shop: Shop, column: str) -> None:
    value = {"at_us": "7", "before": "'{}'", "after": "NULL"}.get(column, "'innocent'")
    await damage(shop.database, f"UPDATE audit SET {column} = {value} WHERE id = 4")
    found = await verify(shop)
    assert (found.ok, found.broken_id, found.how, found.rows) == (False, 4, "altered", 3)
    assert "row 4 was altered" in repr(found)


async def test_a_removed_row_leaves_a_gap_that_is_named(shop: Shop) -> None:
    await damage(shop.database, "DELETE FROM audit WHERE id IN (3, 4)")
    found = await verify(shop)
    assert (found.ok, found.broken_id, found.how) == (False, 5, "removed")
    assert "between row 2 and row 5" in found.detail


async def test_a_row_in_another_ones_place_breaks_the_chain_even_with_a_hash_that_is_right(shop: Shop) -> None:
    rows = {row.id: row for row in await Audit.all()}
    await edit(shop, forged(rows[3].hash), instead_of=4)
    found = await verify(shop)
    assert (found.ok, found.how, found.broken_id) == (False, "removed", 5)


async def test_rows_between_two_that_belong_together_were_inserted(shop: Shop) -> None:
    """The honest rows move up by two to make room."""
    rows = {row.id: row for row in await Audit.all()}
    last = max(rows)
    for id_ in range(last, 3, -1):
        await damage(shop.database, f"UPDATE audit SET id = {id_ + 2} WHERE id = {id_}")
    hash_ = rows[3].hash
    for id_ in (4, 5):
        hash_ = await edit(shop, forged(hash_), instead_of=id_)
    found = await verify(shop)
    assert (found.ok, found.how, found.broken_id) == (False, "inserted", 4)
    assert "rows 4 to 5 were inserted" in found.detail


async def test_newest_rows_that_were_cut_off_are_missed_by_what_their_writes_left(shop: Shop) -> None:
    head = (await verify(shop)).head
    last = await Audit.all().order_by("-id").first()
    assert last is not None
    await damage(shop.database, f"DELETE FROM audit WHERE id = {last.id}")
    found = await verify(shop)
    assert (found.ok, found.how) == (False, "removed")
    assert "table change" in found.detail
    # Where nothing else was left, a head that was kept elsewhere tells.
    await damage(shop.database, "DELETE FROM change WHERE id > 0")
    assert (await verify(shop)).ok
    assert (await verify(shop, known_head=head)).how == "removed"


async def test_a_history_written_anew_from_some_row_on_is_found_by_a_known_head(shop: Shop) -> None:
    head = (await verify(shop)).head
    last = await Audit.all().order_by("-id").first()
    assert last is not None
    row = forged(last.previous_hash) | {"at_us": last.at_us}
    await edit(shop, row, instead_of=last.id)
    assert (await verify(shop)).ok
    found = await verify(shop, known_head=head)
    assert (found.ok, found.how) == (False, "removed")


async def test_a_long_log_is_read_in_pages(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    count = (await verify(shop)).rows
    monkeypatch.setattr("models.audit.PAGE", 2)
    assert (await verify(shop)).rows == count
    await damage(shop.database, "DELETE FROM audit WHERE id = 5")
    assert (await verify(shop)).broken_id == 6


# ── whom it is about ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_address_in_what_is_kept_for_ever_becomes_the_account(shop: Shop) -> None:
    bob = await create_account(shop.database, "olga", "bob@example.com", name="Bob B.")
    reason = f"asked by Bob@Example.com, agreed with {ADA}. Not by eve@example.org; model claude@20250101"
    await grant(shop.database, "olga", "bob@example.com", 5, reason, "may_bob@example.com-7")
    told = (
        f"asked by account {bob.id}, agreed with account {shop.account_id}. Not by [an address]; model claude@20250101"
    )
    signed = await Audit.all().order_by("-id").first()
    assert signed is not None
    assert (signed.subject, signed.reason) == (f"account {bob.id}", told)
    assert signed.after["grant_key"] == f"may_account {bob.id}-7"
    assert (await Transfer.get(grant_key="may_bob@example.com-7")).note == told
    assert not any("Bob" in str(row.after) for row in await Audit.all())
    assert (await verify(shop)).ok


async def test_rows_of_the_log_show_the_address_as_long_as_there_is_one(shop: Shop) -> None:
    await suspend_account(shop.database, "olga", ADA, reason="unpaid")
    await disable_key(shop.database, "otto", shop.key_id)
    about = await audit_rows(shop.database, subject=ADA)
    assert [row["action"] for row in about] == ["account.create", "credits.grant", "account.suspend"]
    assert about == await audit_rows(shop.database, subject=f"account {shop.account_id}")
    (key,) = await audit_rows(shop.database, action="key.disable")
    assert (key["subject"], key["account"], key["operator"]) == (f"key {shop.key_id}", ADA, "otto")
    assert key["after"]["disabled_us"] == key["at_us"]
    await shop.database.connection.execute_query("UPDATE \"user\" SET email = 'gone-1001@invalid'")
    assert {row["account"] for row in await audit_rows(shop.database, action="account")} == {"gone-1001@invalid"}
    assert not any(ADA in str(row) for row in await audit_rows(shop.database))


async def test_rows_are_chosen_by_time_kind_and_number(shop: Shop) -> None:
    every = await audit_rows(shop.database)
    assert [row["id"] for row in every] == sorted(row["id"] for row in every)
    assert every[-2:] == await audit_rows(shop.database, limit=2)
    middle = every[3]["at_us"]
    assert await audit_rows(shop.database, middle, middle + 1) == [row for row in every if row["at_us"] == middle]
    assert {row["action"] for row in await audit_rows(shop.database, action="credits")} == {"credits.grant"}
    assert await audit_rows(shop.database, action="credit") == []
    assert await audit_rows(shop.database, subject="account 1") == []
