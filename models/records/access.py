"""Tables of what may be called: keys, the models that they name, and limits."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model

from models.records.accounts import Account
from models.records.catalog import CatalogModel


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
