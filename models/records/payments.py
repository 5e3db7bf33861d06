"""Tables of how credits come: vouchers, top-ups, what the payment provider said, and what waits for approval."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


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
