"""Tables of what was used: a record a request, and its sums by day."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


class Usage(Model):
    """One request that reached a provider: outcome, meters, charge, price version, attempts."""

    request_id = fields.UUIDField(primary_key=True)
    at_us = fields.BigIntField()
    account_id = fields.BigIntField()
    key_id = fields.BigIntField()
    model_id = fields.BigIntField()
    route_id = fields.BigIntField()
    price_id = fields.BigIntField()
    outcome = fields.CharField(max_length=10)
    streamed = fields.BooleanField()
    estimated = fields.BooleanField()
    fresh_tokens = fields.BigIntField()
    cached_tokens = fields.BigIntField()
    cache_write_tokens = fields.BigIntField()
    output_tokens = fields.BigIntField()
    first_byte_ms = fields.IntField()
    total_ms = fields.IntField()
    cost_nano = fields.BigIntField()
    attempts = fields.JSONField[list[dict[str, object]]]()
    charge_nano = fields.BigIntField()
    writeoff_nano = fields.BigIntField()

    class Meta:
        table = "usage"


class UsageDay(Model):
    """Sums of usage records of one day (UTC) that are alike in the first seven columns. Settlements that came after the
    day was rolled up have rows of their own, so whoever reads adds up.
    """

    id = fields.BigIntField(primary_key=True)
    day_us = fields.BigIntField()
    account_id = fields.BigIntField()
    key_id = fields.BigIntField()
    model_id = fields.BigIntField()
    route_id = fields.BigIntField()
    outcome = fields.CharField(max_length=10)
    estimated = fields.BooleanField()
    requests = fields.BigIntField()
    fresh_tokens = fields.BigIntField()
    cached_tokens = fields.BigIntField()
    cache_write_tokens = fields.BigIntField()
    output_tokens = fields.BigIntField()
    charge_nano = fields.BigIntField()
    writeoff_nano = fields.BigIntField()
    cost_nano = fields.BigIntField()
    first_byte_ms = fields.BigIntField()
    total_ms = fields.BigIntField()

    class Meta:
        table = "usage_day"
        indexes = [
            Index(fields=["account_id", "day_us"], name="usage_day_of_account"),
            Index(fields=["day_us"], name="usage_day_of_day"),
        ]


class UsageRollup(Model):
    """The one row that says how far usage is rolled up: every day before `until_us`. `late` counts late settlements."""

    id = fields.BigIntField(primary_key=True)
    until_us = fields.BigIntField()
    late = fields.BigIntField()

    class Meta:
        table = "usage_rollup"
