"""Tables of what has happened: the change feed and the audit log."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model


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
