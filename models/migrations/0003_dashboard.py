"""Owns what the dashboard and the money that comes in need: sessions, invitations, vouchers, top-ups, approvals, grace of keys."""

from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise.fields.base import OnDelete
from tortoise import fields
from tortoise.indexes import Index

class Migration(migrations.Migration):
    dependencies = [('models', '0002_storage')]

    operations = [
        ops.CreateModel(
            name='Approval',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('account_id', fields.BigIntField()),
                ('amount_nano', fields.BigIntField()),
                ('kind', fields.CharField(max_length=20)),
                ('shortfall', fields.CharField(max_length=10)),
                ('reason', fields.TextField(unique=False)),
                ('grant_key', fields.CharField(unique=True, max_length=200)),
                ('requested_by', fields.CharField(max_length=200)),
                ('requested_us', fields.BigIntField()),
                ('decision', fields.CharField(null=True, max_length=10)),
                ('decided_by', fields.CharField(null=True, max_length=200)),
                ('decided_us', fields.BigIntField(null=True)),
                ('decided_reason', fields.TextField(null=True, unique=False)),
            ],
            options={'table': 'approval', 'app': 'models', 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Invite',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('code_hash', fields.CharField(unique=True, max_length=64)),
                ('hint', fields.CharField(max_length=32)),
                ('email', fields.CharField(null=True, max_length=254)),
                ('expires_us', fields.BigIntField()),
                ('used_us', fields.BigIntField(null=True)),
                ('account_id', fields.BigIntField(null=True)),
                ('operator', fields.CharField(max_length=200)),
                ('created_us', fields.BigIntField()),
            ],
            options={'table': 'invite', 'app': 'models', 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Session',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('user', fields.ForeignKeyField('models.User', source_field='user_id', db_constraint=True, to_field='id', on_delete=OnDelete.RESTRICT)),
                ('token_hash', fields.CharField(unique=True, max_length=64)),
                ('created_us', fields.BigIntField()),
                ('seen_us', fields.BigIntField()),
                ('expires_us', fields.BigIntField()),
                ('ended_us', fields.BigIntField(null=True)),
                ('address', fields.CharField(max_length=45)),
                ('agent', fields.CharField(max_length=200)),
            ],
            options={'table': 'session', 'app': 'models', 'indexes': [Index(fields=['user_id'], name='session_of_user')], 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='TopUp',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('account_id', fields.BigIntField()),
                ('checkout_id', fields.CharField(unique=True, max_length=200)),
                ('payment_id', fields.CharField(null=True, max_length=200)),
                ('amount_cents', fields.BigIntField()),
                ('currency', fields.CharField(max_length=3)),
                ('status', fields.CharField(max_length=20)),
                ('created_us', fields.BigIntField()),
                ('ended_us', fields.BigIntField(null=True)),
            ],
            options={'table': 'top_up', 'app': 'models', 'indexes': [Index(fields=['account_id'], name='top_up_of_account'), Index(fields=['payment_id'], name='top_up_of_payment')], 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='VoucherBatch',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('name', fields.CharField(unique=True, max_length=200)),
                ('amount_nano', fields.BigIntField()),
                ('count', fields.IntField()),
                ('expires_us', fields.BigIntField(null=True)),
                ('operator', fields.CharField(max_length=200)),
                ('reason', fields.TextField(unique=False)),
                ('created_us', fields.BigIntField()),
            ],
            options={'table': 'voucher_batch', 'app': 'models', 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Voucher',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('batch', fields.ForeignKeyField('models.VoucherBatch', source_field='batch_id', db_constraint=True, to_field='id', on_delete=OnDelete.RESTRICT)),
                ('code_hash', fields.CharField(unique=True, max_length=64)),
                ('hint', fields.CharField(max_length=32)),
                ('void_us', fields.BigIntField(null=True)),
                ('redeemed_us', fields.BigIntField(null=True)),
                ('account_id', fields.BigIntField(null=True)),
            ],
            options={'table': 'voucher', 'app': 'models', 'indexes': [Index(fields=['batch_id'], name='voucher_of_batch')], 'pk_attr': 'id'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='ApiKey',
            name='last_used_us',
            field=fields.BigIntField(null=True),
        ),
        ops.AddField(
            model_name='ApiKey',
            name='old_secret_hash',
            field=fields.CharField(null=True, max_length=64),
        ),
        ops.AddField(
            model_name='ApiKey',
            name='old_until_us',
            field=fields.BigIntField(null=True),
        ),
    ]
