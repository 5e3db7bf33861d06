"""API keys: shown once, scoped to models that are named, and dead at once when they are revoked."""

from __future__ import annotations

from typing import Any

import pytest

from models.catalog import add_model
from models.errors import BadInput, Conflict, NotFound
from models.ids import now_us
from models.keys import (
    disable_key,
    enable_key,
    issue_key,
    key_rows,
    regenerate_key,
    revoke_key,
    set_key_models,
)
from models.records import ApiKey, Audit
from models.secrets import hash_key_secret
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
