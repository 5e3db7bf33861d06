"""Owns what the payment provider says about payments: facts that may come in any order, each kept once."""

from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('models', '0005_price_cancelled')]

    operations = [
        ops.CreateModel(
            name='PaymentFact',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('payment_id', fields.CharField(max_length=200)),
                ('kind', fields.CharField(max_length=10)),
                ('object_id', fields.CharField(max_length=200)),
                ('amount_cents', fields.BigIntField()),
                ('currency', fields.CharField(max_length=3)),
                ('event_id', fields.CharField(max_length=200)),
                ('at_us', fields.BigIntField()),
            ],
            options={'table': 'payment_fact', 'app': 'models', 'unique_together': (('payment_id', 'kind', 'object_id', 'amount_cents'),), 'pk_attr': 'id'},
            bases=['Model'],
        ),
    ]
