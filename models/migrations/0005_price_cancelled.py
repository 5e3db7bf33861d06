"""Owns the cancellation of prices that were dated ahead: a row of its own, as a price's row never changes."""

from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise.fields.base import OnDelete
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('models', '0004_rollups')]

    operations = [
        ops.CreateModel(
            name='PriceCancelled',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('price', fields.ForeignKeyField('models.Price', source_field='price_id', db_constraint=True, to_field='id', on_delete=OnDelete.RESTRICT)),
                ('operator', fields.CharField(max_length=200)),
                ('reason', fields.TextField(unique=False)),
                ('created_us', fields.BigIntField()),
            ],
            options={'table': 'price_cancelled', 'app': 'models', 'unique_together': (('price_id',),), 'pk_attr': 'id'},
            bases=['Model'],
        ),
    ]
