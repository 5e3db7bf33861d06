"""Providers, models, routes, prices and limits as operators write them."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest

from models.catalog import add_model, add_provider, publish_model, set_credential, unpublish_model
from models.database import file_lock
from models.epochs import end_epoch, open_epoch
from models.errors import AlreadyExists, BadInput, Conflict, NotFound, SetupError
from models.ids import SECOND_US, now_us
from models.limits import limit_rows, set_limit
from models.price_list import newest_price_id, price_at, price_rows, publish_price
from models.price_terms import price_from_usd
from models.prices import PriceVersion
from models.records import Audit, CatalogModel, Price, Provider, Route
from models.routes import add_route, disable_route, enable_route, route_list, set_route
from models.secrets import Seal
from tests.models.shop import Shop, last_change, sqlite_only, trace

SEAL = Seal("secret")
DEARER = price_from_usd(input_usd="0.54", output_usd="2.20")


async def test_a_credential_is_sealed_and_stands_nowhere_in_the_clear(shop: Shop) -> None:
    stored = await Provider.get(name="acme")
    assert "canary" not in stored.credential
    assert SEAL.open(stored.credential) == "canary"
    await set_credential(shop.database, "olga", "acme", api_key="canary-2", seal=SEAL)
    assert SEAL.open((await Provider.get(name="acme")).credential) == "canary-2"
    assert not any("canary" in str(row.before) + str(row.after) for row in await Audit.all())
    assert await last_change() == ("catalog", 0)


async def test_the_first_credential_is_sealed_under_the_key_of_the_servers_that_run(shop: Shop) -> None:
    await Route.all().delete()
    await Provider.all().delete()
    before = await trace()
    b, another = {"base_url": "https://b.test", "api_key": "k"}, Seal("another")
    with serving(shop):
        life = await open_epoch(shop.database, "here", 1, secret_mark=SEAL.mark)
        # One of the release before, which leaves no mark.
        await open_epoch(shop.database, "here", 2)
        with pytest.raises(SetupError, match="GATEWAY_SECRET_KEY: is not the one that the running servers use"):
            await add_provider(shop.database, "olga", "b", **b, seal=another)
        assert await trace() == before
        await add_provider(shop.database, "olga", "b", **b, seal=SEAL)
        with pytest.raises(SetupError, match="GATEWAY_SECRET_KEY: is not the one that the running servers use"):
            await set_credential(shop.database, "olga", "b", api_key="k2", seal=another)
    # When they are gone the next ones may have another key: whoever starts them with a wrong one is told.
    if shop.database.dialect == "postgres":
        await end_epoch(shop.database, life.epoch_id)
    await set_credential(shop.database, "olga", "b", api_key="k2", seal=another)
    await Provider.all().delete()
    await add_provider(shop.database, "olga", "b", **b, seal=another)


def serving(shop: Shop) -> contextlib.AbstractContextManager[None]:
    """As long as it lasts, a server has the database."""
    url = shop.database.url
    return contextlib.nullcontext() if url.path is None else file_lock(url.lock_path)


@sqlite_only
@pytest.mark.parametrize(
    "url",
    ["", "api.acme.test/v1", "ftp://acme.test", "http://", "https://user:pw@acme.test", "https://acme.test/v1?x=1",
     "https://acme.test:99999", "https://acme .test", None],
)  # fmt: skip
async def test_a_base_url_that_cannot_be_called_is_refused(shop: Shop, url: Any) -> None:
    with pytest.raises(BadInput) as refusal:
        await add_provider(shop.database, "olga", "beta", base_url=url, api_key="k", seal=SEAL)
    assert refusal.value.field == "base_url"


async def test_a_base_url_loses_the_slash_at_its_end(shop: Shop) -> None:
    with pytest.raises(BadInput, match="api_key: has spaces") as refused:
        await add_provider(shop.database, "olga", "c", base_url="https://b.test", api_key="canary key", seal=SEAL)
    assert "canary" not in str(refused.value)
    added = await add_provider(shop.database, "olga", "b", base_url="http://127.0.0.1:8001/v1/", api_key="k", seal=SEAL)
    assert added.base_url == "http://127.0.0.1:8001/v1"


async def test_names_are_unique(shop: Shop) -> None:
    before = await trace()
    with pytest.raises(AlreadyExists, match="acme"):
        await add_provider(shop.database, "olga", "acme", base_url="https://b.test", api_key="k", seal=SEAL)
    with pytest.raises(AlreadyExists, match="small-chat"):
        await add_model(shop.database, "olga", "small-chat", context_tokens=9, max_output_tokens=9)
    with pytest.raises(AlreadyExists, match="position 1"):
        await add_route(shop.database, "olga", "small-chat", provider="acme", upstream_model="acme-1-small")
    assert await trace() == before


@sqlite_only
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"alias": ""}, "alias"),
        ({"alias": "a b"}, "alias"),
        ({"alias": "a\n"}, "alias"),
        ({"alias": "x" * 201}, "alias"),
        ({"alias": 7}, "alias"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": "9"}, "context_tokens"),
        ({"context_tokens": 10**9}, "context_tokens"),
        ({"max_output_tokens": 101}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"media_tokens": -1}, "media_tokens"),
        ({"published": "yes"}, "published"),
    ],
)
async def test_a_bad_model_is_refused_by_field(shop: Shop, bad: dict[str, Any], field: str) -> None:
    values: dict[str, Any] = {"alias": "new", "context_tokens": 100, "max_output_tokens": 100} | bad
    with pytest.raises(BadInput) as refusal:
        await add_model(shop.database, "olga", values.pop("alias"), **values)
    assert refusal.value.field == field
    assert await CatalogModel.all().count() == 1


async def test_publishing_says_so_once(shop: Shop) -> None:
    assert not (await unpublish_model(shop.database, "olga", "small-chat")).published
    assert await last_change() == ("catalog", 0)
    before = await trace()
    await unpublish_model(shop.database, "olga", "small-chat")
    assert await trace() == before
    assert (await publish_model(shop.database, "olga", "small-chat")).published
    with pytest.raises(NotFound, match="no-such"):
        await publish_model(shop.database, "olga", "no-such")


async def test_a_route_can_be_moved_priced_and_switched_off(shop: Shop) -> None:
    changed = await set_route(
        shop.database, "olga", shop.route_id, position=3, weight=5, cost_input_usd="0.20", cost_output_usd="0.80"
    )
    assert (changed.position, changed.weight, changed.cost_input_nano, changed.cost_output_nano) == (
        3,
        5,
        20_000,
        80_000,
    )
    assert not (await disable_route(shop.database, "olga", shop.route_id)).enabled
    assert (await enable_route(shop.database, "olga", shop.route_id)).enabled
    assert await last_change() == ("catalog", 0)
    assert await route_list("small-chat") == [msgspec.structs.replace(changed, enabled=True)]


@sqlite_only
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"provider": "none"}, "provider"),
        ({"weight": 0}, "weight"),
        ({"position": -1}, "position"),
        ({"position": 2**31}, "position"),
        ({"upstream_model": ""}, "upstream_model"),
        ({"cost_input_usd": 0.2}, "cost_input_usd"),
    ],
)
async def test_a_bad_route_is_refused_by_field(shop: Shop, bad: dict[str, Any], field: str) -> None:
    before = await trace()
    with pytest.raises(BadInput) as refusal:
        await add_route(shop.database, "olga", "small-chat", **{"provider": "acme", "upstream_model": "other", **bad})
    assert refusal.value.field == field
    assert await trace() == before


# ── prices ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def publish(shop: Shop, price: PriceVersion = DEARER, **more: Any) -> PriceVersion:
    return await publish_price(shop.database, "olga", "small-chat", price, reason="list", **more)


async def test_a_new_price_is_a_new_row_in_force_at_once(shop: Shop) -> None:
    published = await publish(shop)
    assert await price_at(shop.database, "small-chat") == published
    assert await price_at(shop.database, "small-chat", shop.price.effective_us) == shop.price
    assert await Price.all().count() == 2
    assert await last_change() == ("catalog", 0)


async def test_a_price_dated_ahead_waits_for_its_moment(shop: Shop) -> None:
    moment = now_us() + 3_600 * SECOND_US
    ahead = await publish(shop, effective_us=moment)
    assert await price_at(shop.database, "small-chat") == shop.price
    assert await price_at(shop.database, "small-chat", moment - 1) == shop.price
    assert await price_at(shop.database, "small-chat", moment) == ahead
    statuses = [row["status"] for row in await price_rows(shop.database, history=True)]
    assert statuses == ["current", "scheduled"]


async def test_two_prices_of_the_same_microsecond_both_stand_the_later_wins(shop: Shop) -> None:
    moment = now_us() + 3_600 * SECOND_US
    first, second = await publish(shop, effective_us=moment), await publish(shop, effective_us=moment)
    assert (first.effective_us, second.effective_us) == (moment, moment + 1)


async def test_a_price_in_the_past_or_without_a_reason_is_refused(shop: Shop) -> None:
    before = await trace()
    with pytest.raises(BadInput, match="past"):
        await publish(shop, effective_us=now_us() - SECOND_US)
    with pytest.raises(BadInput, match="reason"):
        await publish_price(shop.database, "olga", "small-chat", DEARER, reason="")
    with pytest.raises(NotFound, match="no-such"):
        await publish_price(shop.database, "olga", "no-such", DEARER, reason="list")
    assert await trace() == before


async def test_a_price_that_does_not_know_the_newest_one_is_a_conflict(shop: Shop) -> None:
    seen = await newest_price_id(shop.database, "small-chat")
    await publish(shop, last_seen_id=seen)
    with pytest.raises(Conflict, match="propose again"):
        await publish(shop, last_seen_id=seen)
    assert await Price.all().count() == 2


async def test_tiers_and_windows_come_back_as_they_were_published(shop: Shop) -> None:
    terms = price_from_usd(
        input_usd="1",
        output_usd="2",
        tiers=[{"above_tokens": 9, "input_usd": "3", "output_usd": "4"}],
        windows=[{"start": "16:30", "end": "00:30", "input_usd": "0.5", "output_usd": "1"}],
    )
    published = await publish(shop, terms)
    assert await price_at(shop.database, "small-chat") == published
    assert (published.tiers, published.windows) == (terms.tiers, terms.windows)


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_limit_replaces_the_one_of_its_subject_and_unit(shop: Shop) -> None:
    for quota in (60, 90):
        await set_limit(shop.database, "olga", subject="key", subject_id=shop.key_id, unit="requests", quota=quota)
    await set_limit(shop.database, "olga", subject="default_key", unit="tokens", quota=5, window_s=1)
    await set_limit(shop.database, "olga", subject="route", subject_id=shop.route_id, unit="concurrent", quota=8)
    rows = [
        (r["subject"], r["subject_id"], r["unit"], r["quota"], r["window_s"]) for r in await limit_rows(shop.database)
    ]
    assert rows == [
        ("default_key", 0, "tokens", 5, 1),
        ("key", shop.key_id, "requests", 90, 60),
        ("route", shop.route_id, "concurrent", 8, 0),
    ]
    assert (await last_change())[0] == "limits"
    await set_limit(shop.database, "olga", subject="key", subject_id=shop.key_id, unit="requests", quota=None)
    assert len(await limit_rows(shop.database)) == 2


@sqlite_only
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"subject": "team"}, "subject"),
        ({"subject_id": 999}, "key"),
        ({"unit": "bytes"}, "unit"),
        ({"quota": 0}, "quota"),
        ({"quota": 1.5}, "quota"),
        ({"quota": True}, "quota"),
        ({"window_s": 0}, "window_s"),
        ({"window_s": 31 * 86_400 + 1}, "window_s"),
    ],
)
async def test_a_bad_limit_is_refused_by_field(shop: Shop, bad: dict[str, Any], field: str) -> None:
    before = await trace()
    values: dict[str, Any] = {"subject": "key", "subject_id": shop.key_id, "unit": "requests", "quota": 1, **bad}
    with pytest.raises(BadInput) as refusal:
        await set_limit(shop.database, "olga", **values)
    assert refusal.value.field == field
    assert await trace() == before
