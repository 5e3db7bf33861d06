"""Tables of what is sold: providers, models, routes to them, and prices, which are never changed."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


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
