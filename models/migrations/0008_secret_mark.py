"""Owns which secret key a worker reads credentials under."""

from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('models', '0007_quarantine_closed')]

    operations = [
        ops.AddField(
            model_name='Epoch',
            name='secret_mark',
            field=fields.CharField(null=True, max_length=32),
        ),
    ]
