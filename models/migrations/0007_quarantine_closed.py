"""Owns when a settlement left quarantine."""

from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('models', '0006_payment_facts')]

    operations = [
        ops.AddField(
            model_name='Quarantine',
            name='closed_us',
            field=fields.BigIntField(null=True),
        ),
    ]
