"""Owns who is in the sample business: its customers, its models behind their providers, and the prices of its three months."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from models.changes import OperatorWrite
from models.database import Database
from models.ids import DAY_US
from models.price_terms import price_from_usd
from models.prices import PriceVersion, schedule_to_json
from models.records import Account, ApiKey, CatalogModel, Epoch, KeyModel, LimitRule, Price, Provider, Route, User
from models.secrets import Seal

DAYS = 90
OPERATOR = "olga"


class Customer(msgspec.Struct, frozen=True):
    """`per_day` requests on the first day, growing to `per_day_end` on the last; from and to which day."""

    email: str
    per_day: int
    per_day_end: int
    credits: str
    models: tuple[str, ...]
    first_day: int = 0
    last_day: int = DAYS
    input_tokens: int = 900
    output_tokens: int = 250


CUSTOMERS = (
    Customer("northwind@example.com", 60, 75, "4000", ("small-chat", "large-chat", "night-chat"), input_tokens=1_400),
    Customer("acme-labs@example.com", 15, 80, "3000", ("small-chat", "large-chat"), input_tokens=2_200),
    Customer("studio-lumen@example.com", 40, 40, "60", ("large-chat",), last_day=70, output_tokens=600),
    Customer("tiny-bots@example.com", 50, 45, "200", ("small-chat",), input_tokens=250, output_tokens=60),
    Customer("weekend-hacks@example.com", 6, 10, "150", ("small-chat", "night-chat"), first_day=20),
    Customer("zephyr@example.com", 12, 4, "500", ("small-chat", "large-chat", "night-chat"), last_day=80),
)
_MODELS = {  # alias: (context, most output, provider, upstream model, cost of input and output, per million)
    "small-chat": (64_000, 8_192, "acme", "acme-1-small", "0.18", "0.70"),
    "large-chat": (200_000, 16_384, "borealis", "borealis-large", "0.90", "7.50"),
    "night-chat": (128_000, 8_192, "cumulus", "cumulus-mix", "0.15", "0.80"),
}
_PRICES: tuple[tuple[int, str, dict[str, Any], str], ...] = (
    (0, "small-chat", {"input_usd": "0.30", "cached_input_usd": "0.08", "output_usd": "1.20"}, "first list"),
    (
        0,
        "large-chat",
        {
            "input_usd": "1.25",
            "output_usd": "10",
            "tiers": [{"above_tokens": 4_000, "input_usd": "2.5", "output_usd": "15"}],
        },
        "first list",
    ),
    (0, "night-chat", {"input_usd": "0.5", "output_usd": "2"}, "first list"),
    (
        31,
        "small-chat",
        {"input_usd": "0.27", "cached_input_usd": "0.07", "output_usd": "1.10"},
        "the provider is cheaper",
    ),
    (
        45,
        "night-chat",
        {
            "input_usd": "0.5",
            "output_usd": "2",
            "windows": [{"start": "20:00", "end": "06:00", "input_usd": "0.25", "output_usd": "1"}],
        },
        "fill the nights",
    ),
    (
        62,
        "large-chat",
        {
            "input_usd": "1.35",
            "output_usd": "11",
            "tiers": [{"above_tokens": 4_000, "input_usd": "2.7", "output_usd": "16.5"}],
        },
        "borealis raised its list",
    ),
)


class Stock(msgspec.Struct):
    """What requests are made from: ids by name, and prices in the order of their days."""

    first_us: int
    epoch_id: int
    accounts: dict[str, int] = {}
    keys: dict[str, int] = {}
    models: dict[str, int] = {}
    routes: dict[str, int] = {}
    costs: dict[str, PriceVersion] = {}
    prices: dict[str, list[PriceVersion]] = {}

    def price_at(self, model: str, at_us: int) -> PriceVersion:
        return [price for price in self.prices[model] if price.effective_us <= at_us][-1]


async def stock_up(database: Database, seal: Seal, first_us: int) -> Stock:
    """The catalog and the customers in a new database, as of the day before the UTC midnight `first_us`."""
    created_us = first_us - DAY_US
    async with database.transaction() as transaction:
        write = OperatorWrite(transaction, OPERATOR, created_us)
        epoch = await Epoch.create(
            machine="sample",
            pid=1,
            started_us=created_us,
            heartbeat_us=created_us,
            ended_us=first_us + DAYS * DAY_US,
        )
        stock = Stock(first_us, epoch.id)
        for alias, (context, most, provider, upstream, cost_in, cost_out) in _MODELS.items():
            await _add_model(write, stock, seal, alias, context, most, provider, upstream, cost_in, cost_out)
        for day, alias, terms, reason in _PRICES:
            await _publish(write, stock, first_us + day * DAY_US, alias, price_from_usd(**terms), reason)
        for customer in CUSTOMERS:
            await _add_customer(write, stock, customer)
        for subject, unit, quota in (("default_key", "requests", 600), ("default_account", "requests", 3_000)):
            await LimitRule.create(subject=subject, subject_id=0, unit=unit, quota=quota, window_s=60)
    return stock


async def _add_model(
    write: OperatorWrite,
    stock: Stock,
    seal: Seal,
    alias: str,
    context: int,
    most: int,
    provider: str,
    upstream: str,
    cost_in: str,
    cost_out: str,
) -> None:
    vendor = await Provider.create(
        name=provider,
        base_url=f"https://api.{provider}.test/v1",
        credential=seal.close("sample"),
        created_us=write.at_us,
    )
    model = await CatalogModel.create(
        alias=alias,
        owned_by=provider,
        context_tokens=context,
        max_output_tokens=most,
        published=True,
        created_us=write.at_us,
    )
    cost = price_from_usd(input_usd=cost_in, output_usd=cost_out)
    rates = cost.tiers[0].rates
    route = await Route.create(
        model_id=model.id,
        provider_id=vendor.id,
        upstream_model=upstream,
        cost_input_nano=rates.fresh,
        cost_cached_input_nano=rates.cached,
        cost_cache_write_nano=rates.written,
        cost_output_nano=rates.output,
        created_us=write.at_us,
    )
    stock.models[alias], stock.routes[alias], stock.costs[alias] = model.id, route.id, cost
    await write.audit("model.add", f"model {alias}", after={"context_tokens": context, "max_output_tokens": most})


async def _publish(
    write: OperatorWrite, stock: Stock, effective_us: int, alias: str, price: PriceVersion, reason: str
) -> None:
    rates = price.tiers[0].rates
    row = await Price.create(
        model_id=stock.models[alias],
        effective_us=effective_us,
        input_nano=rates.fresh,
        cached_input_nano=rates.cached,
        cache_write_nano=rates.written,
        output_nano=rates.output,
        schedule=schedule_to_json(price),
        operator=write.operator,
        reason=reason,
        created_us=write.at_us,
    )
    version = msgspec.structs.replace(price, id=row.id, effective_us=effective_us)
    stock.prices.setdefault(alias, []).append(version)
    await write.audit("price.publish", f"model {alias}", reason=reason, after={"version": row.id})


async def _add_customer(write: OperatorWrite, stock: Stock, customer: Customer) -> None:
    account = await Account.create(name=customer.email.split("@")[0], created_us=write.at_us)
    await User.create(account_id=account.id, email=customer.email, created_us=write.at_us)
    # Nobody knows the secret behind this hash: the sample's keys are for looking at.
    key = await ApiKey.create(
        account_id=account.id,
        name="production",
        secret_hash=hashlib.sha256(f"sample {customer.email}".encode()).hexdigest(),
        hint=f"sk-st-{customer.email[:4]}…{customer.email[1:5]}",
        created_us=write.at_us,
    )
    await KeyModel.bulk_create([KeyModel(api_key_id=key.id, model_id=stock.models[alias]) for alias in customer.models])
    stock.accounts[customer.email], stock.keys[customer.email] = account.id, key.id
