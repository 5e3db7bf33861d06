"""Owns the roll-ups of usage by day; see `models/rollups.py`. The one row of `usage_rollup` says that no day is rolled up yet."""

from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields
from tortoise.indexes import Index

class Migration(migrations.Migration):
    dependencies = [('models', '0003_dashboard')]

    operations = [
        ops.CreateModel(
            name='UsageDay',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('day_us', fields.BigIntField()),
                ('account_id', fields.BigIntField()),
                ('key_id', fields.BigIntField()),
                ('model_id', fields.BigIntField()),
                ('route_id', fields.BigIntField()),
                ('outcome', fields.CharField(max_length=10)),
                ('estimated', fields.BooleanField()),
                ('requests', fields.BigIntField()),
                ('fresh_tokens', fields.BigIntField()),
                ('cached_tokens', fields.BigIntField()),
                ('cache_write_tokens', fields.BigIntField()),
                ('output_tokens', fields.BigIntField()),
                ('charge_nano', fields.BigIntField()),
                ('writeoff_nano', fields.BigIntField()),
                ('cost_nano', fields.BigIntField()),
                ('first_byte_ms', fields.BigIntField()),
                ('total_ms', fields.BigIntField()),
            ],
            options={'table': 'usage_day', 'app': 'models', 'indexes': [Index(fields=['account_id', 'day_us'], name='usage_day_of_account'), Index(fields=['day_us'], name='usage_day_of_day')], 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='UsageRollup',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('until_us', fields.BigIntField()),
                ('late', fields.BigIntField()),
            ],
            options={'table': 'usage_rollup', 'app': 'models', 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.RunSQL('INSERT INTO usage_rollup (id, until_us, late) VALUES (1, 0, 0)', reverse_sql='DELETE FROM usage_rollup'),
    ]
