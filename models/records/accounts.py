"""Tables of who pays and who looks: accounts, logins, signed-in browsers, invitations."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


class Account(Model):
    """Who pays. Ids below 1001 are the system accounts, which store no balance."""

    id = fields.BigIntField(primary_key=True)
    name = fields.CharField(max_length=200)
    balance_nano = fields.BigIntField(default=0)
    held_nano = fields.BigIntField(default=0)
    suspended_us = fields.BigIntField(null=True)
    created_us = fields.BigIntField()

    class Meta:
        table = "account"


class User(Model):
    """A login of an account."""

    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField("models.Account", on_delete=fields.RESTRICT)
    account_id: int
    email = fields.CharField(max_length=254, unique=True)
    password_hash = fields.CharField(max_length=200, null=True)
    reset_hash = fields.CharField(max_length=64, null=True, unique=True)
    reset_until_us = fields.BigIntField(null=True)
    created_us = fields.BigIntField()

    class Meta:
        table = "user"


class Session(Model):
    """A signed-in browser. The cookie's token is stored as its SHA-256; an ended session stays listed for its owner."""

    id = fields.BigIntField(primary_key=True)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("models.User", on_delete=fields.RESTRICT)
    user_id: int
    token_hash = fields.CharField(max_length=64, unique=True)
    created_us = fields.BigIntField()
    seen_us = fields.BigIntField()
    expires_us = fields.BigIntField()
    ended_us = fields.BigIntField(null=True)
    address = fields.CharField(max_length=45)
    agent = fields.CharField(max_length=200)

    class Meta:
        table = "session"
        indexes = [Index(fields=["user_id"], name="session_of_user")]


class Invite(Model):
    """A code with which one person may sign up, where sign-up is by invitation. Stored as the SHA-256 of the code."""

    id = fields.BigIntField(primary_key=True)
    code_hash = fields.CharField(max_length=64, unique=True)
    hint = fields.CharField(max_length=32)
    email = fields.CharField(max_length=254, null=True)
    expires_us = fields.BigIntField()
    used_us = fields.BigIntField(null=True)
    account_id = fields.BigIntField(null=True)
    operator = fields.CharField(max_length=200)
    created_us = fields.BigIntField()

    class Meta:
        table = "invite"
