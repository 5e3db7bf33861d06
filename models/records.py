"""Owns the tables as Tortoise records. Rules live beside them: money in `money.py`, prices in `prices.py`.

Conventions: moments are integers in microseconds since 1970 UTC (`*_us`), so that both databases group and compare them
alike; amounts and rates are integers in nano-credits (`*_nano`). Hot tables (`hold`, `transfer`, `usage`) carry plain ids
instead of foreign keys: the ledger writer is their only author, and a key check per row would cost more than it finds.
"""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


class Account(Model):
    """Who pays. Ids below 1001 are the system accounts, which store no balance."""

    id = fields.BigIntField(primary_key=True)
    name = fields.CharField(max_length=200)
    balance_nano = fields.BigIntField(default=0)
    held_nano = fields.BigIntField(default=0)
    suspended_us = fields.BigIntField(null=True)
    created_us = fields.BigIntField()

    class Meta:
        table = "account"


class User(Model):
    """A login of an account."""

    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField("models.Account", on_delete=fields.RESTRICT)
    account_id: int
    email = fields.CharField(max_length=254, unique=True)
    password_hash = fields.CharField(max_length=200, null=True)
    reset_hash = fields.CharField(max_length=64, null=True, unique=True)
    reset_until_us = fields.BigIntField(null=True)
    created_us = fields.BigIntField()

    class Meta:
        table = "user"


class Session(Model):
    """A signed-in browser. The cookie's token is stored as its SHA-256; an ended session stays listed for its owner."""

    id = fields.BigIntField(primary_key=True)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("models.User", on_delete=fields.RESTRICT)
    user_id: int
    token_hash = fields.CharField(max_length=64, unique=True)
    created_us = fields.BigIntField()
    seen_us = fields.BigIntField()
    expires_us = fields.BigIntField()
    ended_us = fields.BigIntField(null=True)
    address = fields.CharField(max_length=45)
    agent = fields.CharField(max_length=200)

    class Meta:
        table = "session"
        indexes = [Index(fields=["user_id"], name="session_of_user")]


class Invite(Model):
    """A code with which one person may sign up, where sign-up is by invitation. Stored as the SHA-256 of the code."""

    id = fields.BigIntField(primary_key=True)
    code_hash = fields.CharField(max_length=64, unique=True)
    hint = fields.CharField(max_length=32)
    email = fields.CharField(max_length=254, null=True)
    expires_us = fields.BigIntField()
    used_us = fields.BigIntField(null=True)
    account_id = fields.BigIntField(null=True)
    operator = fields.CharField(max_length=200)
    created_us = fields.BigIntField()

    class Meta:
        table = "invite"


class ApiKey(Model):
    """A bearer key, stored as the SHA-256 of its secret. `hint` is what may be shown again."""

    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField("models.Account", on_delete=fields.RESTRICT)
    account_id: int
    name = fields.CharField(max_length=200)
    secret_hash = fields.CharField(max_length=64, unique=True)
    hint = fields.CharField(max_length=32)
    # The secret before the last regeneration, while its grace period lasts. An index in `protections.py` keeps it unique.
    old_secret_hash = fields.CharField(max_length=64, null=True)
    old_until_us = fields.BigIntField(null=True)
    expires_us = fields.BigIntField(null=True)
    disabled_us = fields.BigIntField(null=True)
    revoked_us = fields.BigIntField(null=True)
    last_used_us = fields.BigIntField(null=True)
    created_us = fields.BigIntField()

    class Meta:
        table = "api_key"


class Provider(Model):
    """A vendor: base URL and encrypted credential."""

    id = fields.BigIntField(primary_key=True)
    name = fields.CharField(max_length=100, unique=True)
    base_url = fields.CharField(max_length=500)
    credential = fields.TextField()
    max_tokens_field = fields.CharField(max_length=40, default="as_given")
    created_us = fields.BigIntField()

    class Meta:
        table = "provider"


class CatalogModel(Model):
    """A model alias: the name a customer sends, and the bounds of what it may cost."""

    id = fields.BigIntField(primary_key=True)
    alias = fields.CharField(max_length=200, unique=True)
    owned_by = fields.CharField(max_length=100, default="supertomorrow")
    context_tokens = fields.BigIntField()
    max_output_tokens = fields.BigIntField()
    media_tokens = fields.BigIntField(default=8192)
    published = fields.BooleanField(default=False)
    created_us = fields.BigIntField()

    class Meta:
        table = "model"


class KeyModel(Model):
    """An alias that a key may call."""

    id = fields.BigIntField(primary_key=True)
    api_key: fields.ForeignKeyRelation[ApiKey] = fields.ForeignKeyField("models.ApiKey", on_delete=fields.RESTRICT)
    api_key_id: int
    model: fields.ForeignKeyRelation[CatalogModel] = fields.ForeignKeyField(
        "models.CatalogModel", on_delete=fields.RESTRICT
    )
    model_id: int

    class Meta:
        table = "key_model"
        unique_together = (("api_key_id", "model_id"),)


class Route(Model):
    """Alias → provider and upstream model, with its place in the order, its weight and what it costs us."""

    id = fields.BigIntField(primary_key=True)
    model: fields.ForeignKeyRelation[CatalogModel] = fields.ForeignKeyField(
        "models.CatalogModel", on_delete=fields.RESTRICT
    )
    model_id: int
    provider: fields.ForeignKeyRelation[Provider] = fields.ForeignKeyField("models.Provider", on_delete=fields.RESTRICT)
    provider_id: int
    upstream_model = fields.CharField(max_length=300)
    position = fields.IntField(default=1)
    weight = fields.IntField(default=1)
    enabled = fields.BooleanField(default=True)
    cost_input_nano = fields.BigIntField(null=True)
    cost_cached_input_nano = fields.BigIntField(null=True)
    cost_cache_write_nano = fields.BigIntField(null=True)
    cost_output_nano = fields.BigIntField(null=True)
    created_us = fields.BigIntField()

    class Meta:
        table = "route"
        indexes = [Index(fields=["model_id"], name="route_model")]


class Price(Model):
    """A price version: immutable and dated; the database refuses UPDATE and DELETE. A new price is a new row."""

    id = fields.BigIntField(primary_key=True)
    model: fields.ForeignKeyRelation[CatalogModel] = fields.ForeignKeyField(
        "models.CatalogModel", on_delete=fields.RESTRICT
    )
    model_id: int
    effective_us = fields.BigIntField()
    input_nano = fields.BigIntField()
    cached_input_nano = fields.BigIntField()
    cache_write_nano = fields.BigIntField()
    output_nano = fields.BigIntField()
    schedule = fields.JSONField[dict[str, object]]()
    operator = fields.CharField(max_length=200)
    reason = fields.TextField()
    created_us = fields.BigIntField()

    class Meta:
        table = "price"
        unique_together = (("model_id", "effective_us"),)


class PriceCancelled(Model):
    """A price dated ahead that was taken back before it took effect; append-only like the prices."""

    id = fields.BigIntField(primary_key=True)
    price: fields.ForeignKeyRelation[Price] = fields.ForeignKeyField("models.Price", on_delete=fields.RESTRICT)
    price_id: int
    operator = fields.CharField(max_length=200)
    reason = fields.TextField()
    created_us = fields.BigIntField()

    class Meta:
        table = "price_cancelled"
        unique_together = (("price_id",),)


class LimitRule(Model):
    """`Limit(subject, unit, quota, window_s)`. `subject_id` 0 with subject `default_*` serves those without their own."""

    id = fields.BigIntField(primary_key=True)
    subject = fields.CharField(max_length=20)
    subject_id = fields.BigIntField()
    unit = fields.CharField(max_length=20)
    quota = fields.BigIntField()
    window_s = fields.IntField()

    class Meta:
        table = "limit"
        unique_together = (("subject", "subject_id", "unit"),)


class Epoch(Model):
    """One life of one worker. Holds of an epoch that is over are expired by recovery."""

    id = fields.BigIntField(primary_key=True)
    machine = fields.CharField(max_length=200)
    pid = fields.BigIntField()
    started_us = fields.BigIntField()
    heartbeat_us = fields.BigIntField()
    ended_us = fields.BigIntField(null=True)

    class Meta:
        table = "epoch"


class Hold(Model):
    """Money set aside for one request."""

    request_id = fields.UUIDField(primary_key=True)
    account_id = fields.BigIntField()
    amount_nano = fields.BigIntField()
    status = fields.CharField(max_length=10)
    price_id = fields.BigIntField()
    epoch_id = fields.BigIntField()
    at_us = fields.BigIntField()
    ended_us = fields.BigIntField(null=True)

    class Meta:
        table = "hold"


class Transfer(Model):
    """One append-only row that moves an amount from one account to another."""

    id = fields.BigIntField(primary_key=True)
    debit_account = fields.BigIntField()
    credit_account = fields.BigIntField()
    amount_nano = fields.BigIntField()
    kind = fields.CharField(max_length=20)
    at_us = fields.BigIntField()
    request_id = fields.UUIDField(null=True)
    grant_key = fields.CharField(max_length=200, null=True)
    note = fields.TextField(default="")
    operator = fields.CharField(max_length=200, default="")

    class Meta:
        table = "transfer"


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


class VoucherBatch(Model):
    """Vouchers made at once: so many, of one amount, until one moment."""

    id = fields.BigIntField(primary_key=True)
    name = fields.CharField(max_length=200, unique=True)
    amount_nano = fields.BigIntField()
    count = fields.IntField()
    expires_us = fields.BigIntField(null=True)
    operator = fields.CharField(max_length=200)
    reason = fields.TextField()
    created_us = fields.BigIntField()

    class Meta:
        table = "voucher_batch"


class Voucher(Model):
    """Credits for whoever enters the code first. Stored as the SHA-256 of the code; `hint` is what may be shown again."""

    id = fields.BigIntField(primary_key=True)
    batch: fields.ForeignKeyRelation[VoucherBatch] = fields.ForeignKeyField(
        "models.VoucherBatch", on_delete=fields.RESTRICT
    )
    batch_id: int
    code_hash = fields.CharField(max_length=64, unique=True)
    hint = fields.CharField(max_length=32)
    void_us = fields.BigIntField(null=True)
    redeemed_us = fields.BigIntField(null=True)
    account_id = fields.BigIntField(null=True)

    class Meta:
        table = "voucher"
        indexes = [Index(fields=["batch_id"], name="voucher_of_batch")]


class TopUp(Model):
    """A payment begun at a payment provider's page. What was paid is a transfer `cash` → account; this says how it went."""

    id = fields.BigIntField(primary_key=True)
    account_id = fields.BigIntField()
    checkout_id = fields.CharField(max_length=200, unique=True)
    payment_id = fields.CharField(max_length=200, null=True)
    amount_cents = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    status = fields.CharField(max_length=20)
    created_us = fields.BigIntField()
    ended_us = fields.BigIntField(null=True)

    class Meta:
        table = "top_up"
        indexes = [
            Index(fields=["account_id"], name="top_up_of_account"),
            Index(fields=["payment_id"], name="top_up_of_payment"),
        ]


class PaymentFact(Model):
    """Something that the payment provider signed about a payment; rows are only added. What they mean is in `topups.py`."""

    id = fields.BigIntField(primary_key=True)
    payment_id = fields.CharField(max_length=200)
    kind = fields.CharField(max_length=10)
    object_id = fields.CharField(max_length=200)
    amount_cents = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    event_id = fields.CharField(max_length=200)
    at_us = fields.BigIntField()

    class Meta:
        table = "payment_fact"
        unique_together = (("payment_id", "kind", "object_id", "amount_cents"),)


class Approval(Model):
    """A move of credits that waits for a second operator. `decision` is null, `approved` or `refused`."""

    id = fields.BigIntField(primary_key=True)
    account_id = fields.BigIntField()
    amount_nano = fields.BigIntField()
    kind = fields.CharField(max_length=20)
    shortfall = fields.CharField(max_length=10)
    reason = fields.TextField()
    grant_key = fields.CharField(max_length=200, unique=True)
    requested_by = fields.CharField(max_length=200)
    requested_us = fields.BigIntField()
    decision = fields.CharField(max_length=10, null=True)
    decided_by = fields.CharField(max_length=200, null=True)
    decided_us = fields.BigIntField(null=True)
    decided_reason = fields.TextField(null=True)

    class Meta:
        table = "approval"


class Change(Model):
    """The change feed: what an operator's write touched, polled by every worker."""

    id = fields.BigIntField(primary_key=True)
    kind = fields.CharField(max_length=20)
    subject_id = fields.BigIntField()
    at_us = fields.BigIntField()

    class Meta:
        table = "change"


class Audit(Model):
    """Who did what and why, chained by hash: `hash` covers the row and the hash before it."""

    id = fields.BigIntField(primary_key=True)
    at_us = fields.BigIntField()
    operator = fields.CharField(max_length=200)
    action = fields.CharField(max_length=60)
    subject = fields.CharField(max_length=300)
    reason = fields.TextField()
    before = fields.JSONField[object](null=True)
    after = fields.JSONField[object](null=True)
    previous_hash = fields.CharField(max_length=64)
    hash = fields.CharField(max_length=64)

    class Meta:
        table = "audit"


class Quarantine(Model):
    """A settlement that the database refused by itself: kept whole for a person to look at, while billing goes on.

    `closed_us`: since when nobody has to look at it any more.
    """

    id = fields.BigIntField(primary_key=True)
    at_us = fields.BigIntField()
    request_id = fields.CharField(max_length=64)
    error = fields.TextField()
    command = fields.TextField()
    closed_us = fields.BigIntField(null=True)

    class Meta:
        table = "quarantine"
