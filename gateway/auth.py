"""Owns who is calling: from the bearer key to a `Caller`, through a cache that the change feed evicts from."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import msgspec

from gateway.catalog import Catalog, limits_of
from gateway.limits import Limit
from models.changes import ACCOUNT, KEY
from models.database import Database
from models.errors import InvalidKey

MOST_CALLERS = 250_000
_SHORTEST_KEY, _LONGEST_KEY = 16, 256
_REFUSED = (
    "Invalid API key. Send an enabled key of this service as `Authorization: Bearer YOUR_API_KEY`; "
    "keys are created in the dashboard."
)


class Caller(msgspec.Struct, frozen=True):
    """A key that may call now, the account that pays for it, and what limits them."""

    key_id: int
    account_id: int
    scope: frozenset[int]
    limits: tuple[Limit, ...]
    expires_us: int | None


class Keys:
    """Callers by the digest of their secret."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self._of_key: dict[int, bytes] = {}
        self._scopes: dict[frozenset[int], frozenset[int]] = {}
        # Counts evictions: what was read before one must not be kept after it.
        self._generation = 0

    async def authenticate(self, authorization: str | None, at_us: int) -> Caller:
        """Raises InvalidKey, with one text for every reason, so that nothing can be learned from it."""
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not _SHORTEST_KEY <= len(secret) <= _LONGEST_KEY:
            raise InvalidKey(_REFUSED)
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        caller = self._callers.get(digest) or await self._load(digest)
        if caller.expires_us is not None and caller.expires_us <= at_us:
            raise InvalidKey(_REFUSED)
        return caller

    def evict(self, kind: str, subject_id: int) -> None:
        """Forget one key, or every key of an account."""
        self._generation += 1
        if kind == KEY:
            digest = self._of_key.pop(subject_id, None)
            if digest is not None:
                self._callers.pop(digest, None)
        elif kind == ACCOUNT:
            for digest, caller in list(self._callers.items()):
                if caller.account_id == subject_id:
                    del self._callers[digest]

    def clear(self) -> None:
        """Forget everybody: limits changed."""
        self._generation += 1
        self._callers.clear()
        self._of_key.clear()
        self._scopes.clear()

    async def _load(self, digest: bytes) -> Caller:
        snapshot, generation = self._catalog.snapshot, self._generation
        rows = await self._database.rows(
            "SELECT k.id, k.account_id, k.expires_us FROM api_key k JOIN account a ON a.id = k.account_id"
            " WHERE k.secret_hash = ? AND k.disabled_us IS NULL AND k.revoked_us IS NULL AND a.suspended_us IS NULL",
            [digest.hex()],
        )
        if not rows:
            raise InvalidKey(_REFUSED)
        key = rows[0]
        models = await self._database.rows("SELECT model_id FROM key_model WHERE api_key_id = ?", [key["id"]])
        scope = frozenset(row["model_id"] for row in models)
        caller = Caller(
            key_id=key["id"],
            account_id=key["account_id"],
            # Most keys share their scope with others; one copy serves them all.
            scope=self._scopes.setdefault(scope, scope),
            limits=await limits_of(self._database, snapshot, key["id"], key["account_id"]),
            expires_us=key["expires_us"],
        )
        if generation != self._generation:
            return caller
        if len(self._callers) >= MOST_CALLERS:
            _, oldest = self._callers.popitem(last=False)
            self._of_key.pop(oldest.key_id, None)
        self._callers[digest] = caller
        before = self._of_key.get(caller.key_id, digest)
        if before != digest:
            # The key has a new secret, and the change feed has not said so yet: it will find the new one only.
            self._callers.pop(before, None)
        self._of_key[caller.key_id] = digest
        return caller
