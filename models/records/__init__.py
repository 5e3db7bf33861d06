"""Owns the tables as Tortoise records, a file a part. Rules live in `models`: money in `money.py`, prices in `prices.py`.

Conventions: moments are integers in microseconds since 1970 UTC (`*_us`), so that both databases group and compare them
alike; amounts and rates are integers in nano-credits (`*_nano`). Hot tables (`hold`, `transfer`, `usage`) carry plain ids
instead of foreign keys: the ledger writer is their only author, and a key check per row would cost more than it finds.
"""

from models.records.access import ApiKey, KeyModel, LimitRule
from models.records.accounts import Account, Invite, Session, User
from models.records.catalog import CatalogModel, Price, PriceCancelled, Provider, Route
from models.records.ledger import Epoch, Hold, Quarantine, Transfer
from models.records.log import Audit, Change
from models.records.payments import Approval, PaymentFact, TopUp, Voucher, VoucherBatch
from models.records.usage import Usage, UsageDay, UsageRollup

__all__ = [
    "Account",
    "ApiKey",
    "Approval",
    "Audit",
    "CatalogModel",
    "Change",
    "Epoch",
    "Hold",
    "Invite",
    "KeyModel",
    "LimitRule",
    "PaymentFact",
    "Price",
    "PriceCancelled",
    "Provider",
    "Quarantine",
    "Route",
    "Session",
    "TopUp",
    "Transfer",
    "Usage",
    "UsageDay",
    "UsageRollup",
    "User",
    "Voucher",
    "VoucherBatch",
]
