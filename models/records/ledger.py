"""Tables of money in motion, written by the ledger alone: workers' lives, holds, transfers, refused settlements."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model


class Epoch(Model):
    """One life of one worker. Holds of an epoch that is over are expired by recovery."""

    id = fields.BigIntField(primary_key=True)
    machine = fields.CharField(max_length=200)
    pid = fields.BigIntField()
    started_us = fields.BigIntField()
    heartbeat_us = fields.BigIntField()
    ended_us = fields.BigIntField(null=True)
    # Of the key under which this worker reads credentials: who seals one must have the same.
    secret_mark = fields.CharField(max_length=32, null=True)

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
