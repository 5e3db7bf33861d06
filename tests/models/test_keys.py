"""API keys: shown once, scoped to models that are named, and dead at once when they are revoked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.accounts import create_account
from models.catalog import add_model
from models.errors import BadInput, Conflict, NotFound
from models.ids import SECOND_US, now_us
from models.key_uses import note_uses
from models.keys import (
    LONGEST_GRACE_S,
    disable_key,
    edit_key,
    enable_key,
    end_grace,
    find_key,
    issue_key,
    key_rows,
    regenerate_key,
    revoke_key,
    set_key_models,
)
from models.limits import own_limits
from models.records import ApiKey, Audit
from models.secrets import hash_key_secret, key_secret_of
from tests.models.shop import Shop, last_change, sqlite_only, trace

ADA = "ada@example.com"


async def test_the_secret_is_given_once_and_stored_as_a_hash(shop: Shop) -> None:
    issued = await issue_key(shop.database, "olga", ADA, name="ci", models=["small-chat"])
    row = await ApiKey.get(id=issued.id)
    assert row.secret_hash == hash_key_secret(issued.secret)
    assert issued.secret not in repr(issued)
    assert issued.hint in repr(issued)
    assert not any(issued.secret in str(audit.after) for audit in await Audit.all())
    assert await last_change() == ("key", issued.id)


@sqlite_only
@pytest.mark.parametrize("models", [None, "all", "small-chat", [], (), [3], 5])
async def test_a_key_is_never_given_all_models_silently(shop: Shop, models: Any) -> None:
    before = await trace()
    with pytest.raises(BadInput) as refusal:
        await issue_key(shop.database, "olga", ADA, name="ci", models=models)
    assert refusal.value.field == "models"
    assert await trace() == before


async def test_a_key_for_an_unknown_model_or_account_is_refused_by_name(shop: Shop) -> None:
    with pytest.raises(NotFound, match="'large-chat'"):
        await issue_key(shop.database, "olga", ADA, name="ci", models=["small-chat", "large-chat"])
    with pytest.raises(NotFound, match=r"nobody@example\.com"):
        await issue_key(shop.database, "olga", "nobody@example.com", name="ci", models=["small-chat"])
    with pytest.raises(BadInput, match="past"):
        await issue_key(shop.database, "olga", ADA, name="ci", models=["small-chat"], expires_us=now_us() - 1)
    with pytest.raises(BadInput, match="name"):
        await issue_key(shop.database, "olga", ADA, name="", models=["small-chat"])


async def test_a_regenerated_key_keeps_its_id_and_its_old_secret_dies(shop: Shop) -> None:
    old = await ApiKey.get(id=shop.key_id)
    issued = await regenerate_key(shop.database, "olga", shop.key_id)
    assert (issued.id, issued.models) == (shop.key_id, ("small-chat",))
    assert not await ApiKey.filter(secret_hash=old.secret_hash).exists()
    assert await ApiKey.filter(secret_hash=hash_key_secret(issued.secret)).exists()
    assert await last_change() == ("key", shop.key_id)


async def test_revoking_is_final(shop: Shop) -> None:
    await revoke_key(shop.database, "olga", shop.key_id, reason="lost")
    assert await last_change() == ("key", shop.key_id)
    before = await trace()
    await revoke_key(shop.database, "olga", shop.key_id)
    assert await trace() == before
    for verb in (enable_key, disable_key, regenerate_key):
        with pytest.raises(Conflict, match="revoked"):
            await verb(shop.database, "olga", shop.key_id)


async def test_disabling_can_be_undone(shop: Shop) -> None:
    await disable_key(shop.database, "olga", shop.key_id)
    assert (await ApiKey.get(id=shop.key_id)).disabled_us is not None
    assert await last_change() == ("key", shop.key_id)
    await enable_key(shop.database, "olga", shop.key_id)
    assert (await ApiKey.get(id=shop.key_id)).disabled_us is None


@sqlite_only
@pytest.mark.parametrize("key_id", [999, -1, "1", None, True])
async def test_an_unknown_key_is_not_found(shop: Shop, key_id: Any) -> None:
    with pytest.raises(NotFound):
        await revoke_key(shop.database, "olga", key_id)


async def test_the_scope_can_be_replaced_and_is_listed(shop: Shop) -> None:
    await add_model(shop.database, "olga", "large-chat", context_tokens=9, max_output_tokens=9)
    await set_key_models(shop.database, "olga", shop.key_id, ["large-chat"])
    assert await last_change() == ("key", shop.key_id)
    (row,) = await key_rows(shop.database, ADA)
    assert (row["id"], row["account"], row["models"]) == (shop.key_id, ADA, ["large-chat"])
    with pytest.raises(BadInput):
        await set_key_models(shop.database, "olga", shop.key_id, [])
    assert (await key_rows(shop.database))[0]["models"] == ["large-chat"]
    assert "secret_hash" not in row


async def test_an_old_secret_is_kept_for_its_grace_and_a_still_older_one_is_dropped(shop: Shop) -> None:
    first = await ApiKey.get(id=shop.key_id)
    before_us = now_us()
    await regenerate_key(shop.database, "olga", shop.key_id, grace_s=3600)
    second = await ApiKey.get(id=shop.key_id)
    assert second.old_secret_hash == first.secret_hash
    assert second.old_until_us is not None
    assert before_us + 3600 * SECOND_US <= second.old_until_us <= now_us() + 3600 * SECOND_US
    await regenerate_key(shop.database, "olga", shop.key_id)
    third = await ApiKey.get(id=shop.key_id)
    assert third.old_secret_hash == second.secret_hash
    assert third.old_until_us is not None
    assert third.old_until_us <= now_us()
    for grace_s in (-1, 1.5, LONGEST_GRACE_S + 1):
        with pytest.raises(BadInput, match="grace_s"):
            await regenerate_key(shop.database, "olga", shop.key_id, grace_s=grace_s)


async def test_a_grace_can_be_ended(shop: Shop) -> None:
    await regenerate_key(shop.database, "olga", shop.key_id, grace_s=3600)
    await end_grace(shop.database, "olga", shop.key_id)
    assert ((await ApiKey.get(id=shop.key_id)).old_until_us or 0) <= now_us()
    assert await last_change() == ("key", shop.key_id)
    before = await trace()
    await end_grace(shop.database, "olga", shop.key_id)
    assert await trace() == before


async def test_with_a_secret_of_ones_own_issuing_and_regenerating_twice_is_once(shop: Shop) -> None:
    seed = b"x" * 32
    secret = key_secret_of(seed, "new")
    terms: dict[str, Any] = {"account_id": shop.account_id, "name": "ci", "models": ["small-chat"], "secret": secret}
    first, second = await asyncio.gather(*[issue_key(shop.database, "ada", **terms) for _ in range(2)])
    assert (first.id, first.secret) == (second.id, second.secret) == (first.id, secret)
    other = key_secret_of(seed, f"again {first.id}")
    assert other != secret
    renewed = [
        await regenerate_key(shop.database, "ada", first.id, secret=other, replaces=first.hint, grace_s=60)
        for _ in range(2)
    ]
    assert {issued.secret for issued in renewed} == {other}
    assert (await ApiKey.get(id=first.id)).old_secret_hash == hash_key_secret(secret)
    with pytest.raises(Conflict, match="another secret"):
        await regenerate_key(shop.database, "ada", first.id, replaces=first.hint)
    await revoke_key(shop.database, "ada", renewed[0].id)
    with pytest.raises(Conflict, match="revoked"):
        await issue_key(shop.database, "ada", **{**terms, "secret": other})


async def test_an_edit_changes_what_is_given_or_nothing(shop: Shop) -> None:
    later_us = now_us() + 3600 * SECOND_US
    await edit_key(
        shop.database, "ada", shop.key_id, name="server", expires_us=later_us, limits={"requests": 5, "concurrent": 2}
    )
    (row,) = await key_rows(shop.database, account_id=shop.account_id, key_id=shop.key_id)
    assert (row["name"], row["expires_us"], row["models"]) == ("server", later_us, ["small-chat"])
    assert await own_limits(shop.database, "key", shop.key_id) == {"requests": (5, 60), "concurrent": (2, 0)}
    assert await last_change() == ("key", shop.key_id)
    before = await trace()
    for bad in (
        {"limits": {"requests": 9, "concurrent": 0}},
        {"name": "x", "expires_us": now_us() - 1},
        {"name": "y", "models": ["no-such"]},
    ):
        with pytest.raises(BadInput):
            await edit_key(shop.database, "ada", shop.key_id, **bad)
    assert await trace() == before
    assert (await key_rows(shop.database))[0]["name"] == "server"
    await edit_key(shop.database, "ada", shop.key_id, expires_us=None, limits={"requests": None})
    assert (await ApiKey.get(id=shop.key_id)).expires_us is None
    assert await own_limits(shop.database, "key", shop.key_id) == {"concurrent": (2, 0)}


async def test_no_verb_reaches_a_key_of_another_account(shop: Shop) -> None:
    ben = await create_account(shop.database, "olga", "ben@example.com")
    before = await trace()
    verbs: list[Any] = [revoke_key, disable_key, enable_key, regenerate_key, end_grace, edit_key]
    for verb in verbs:
        texts = []
        for key_id in (shop.key_id, shop.key_id + 1):
            with pytest.raises(NotFound) as refusal:
                await verb(shop.database, "ben", key_id, account_id=ben.id)
            texts.append(str(refusal.value).replace(str(key_id), "N"))
        assert texts[0] == texts[1]
    with pytest.raises(NotFound):
        await find_key(shop.database, ben.id, shop.key_id)
    assert await trace() == before


async def test_the_last_use_is_noted_and_never_moves_backwards(shop: Shop) -> None:
    other = await issue_key(shop.database, "olga", ADA, name="ci", models=["small-chat"])
    before = await trace()
    await note_uses(shop.database, {shop.key_id: 2_000, other.id: 1_700_000_000_000_000, 999_999: 5})
    await note_uses(shop.database, {shop.key_id: 1_000})
    await note_uses(shop.database, {})
    used = {row["id"]: row["last_used_us"] for row in await key_rows(shop.database)}
    assert used == {shop.key_id: 2_000, other.id: 1_700_000_000_000_000}
    assert await trace() == before
