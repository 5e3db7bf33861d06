"""Owns who is calling: from the bearer key to a `Caller`, through a cache that the change feed evicts from."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

import msgspec

from gateway.catalog import Catalog, limits_of
from gateway.limits import Limit
from models.changes import ACCOUNT, KEY
from models.database import Database, is_away
from models.errors import InvalidKey, LedgerUnavailable
from models.ids import now_us

MOST_CALLERS = 250_000
_SHORTEST_KEY, _LONGEST_KEY = 16, 256
_LOOK_S, _MOST_LOOKS = 0.1, 8
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
        # By the secret before the last regeneration, while it still works.
        self._old_of_key: dict[int, bytes] = {}
        # When each key was last used for a request that was admitted; stored now and then by `gateway.py`.
        self.used: dict[int, int] = {}
        self._loading: dict[tuple[bytes, int], asyncio.Task[Caller]] = {}
        self._scopes: dict[frozenset[int], frozenset[int]] = {}
        # Counts evictions: what was read before one must not be kept after it.
        self._generation = 0

    async def authenticate(self, authorization: str | None, at_us: int) -> Caller:
        """Raises InvalidKey, with one text for every reason, so that nothing can be learned from it.

        Raises LedgerUnavailable when nobody can say whether the key was revoked meanwhile.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not _SHORTEST_KEY <= len(secret) <= _LONGEST_KEY:
            raise InvalidKey(_REFUSED)
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        if not self._catalog.is_fresh:
            raise LedgerUnavailable("The catalog cannot be read for a moment; please try again.")
        caller = self._callers.get(digest) or await self._load(digest)
        if caller.expires_us is not None and caller.expires_us <= at_us:
            raise InvalidKey(_REFUSED)
        return caller

    def evict(self, kind: str, subject_id: int) -> None:
        """Forget one key, or every key of an account."""
        self._generation += 1
        if kind == KEY:
            for known in (self._of_key, self._old_of_key):
                digest = known.pop(subject_id, None)
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
        self._old_of_key.clear()
        self._scopes.clear()

    async def _load(self, digest: bytes) -> Caller:
        # A burst of requests with a key that is not known here yet is one look-up; but after an eviction, a new one.
        asked = (digest, self._generation)
        loading = self._loading.get(asked)
        if loading is None:
            loading = self._loading[asked] = asyncio.create_task(self._look_up(digest))
            loading.add_done_callback(lambda done: self._looked_up(asked, done))
        return await asyncio.shield(loading)

    async def _look_up(self, digest: bytes) -> Caller:
        """Within less than a second, in looks: in a loop that lags, the answer may be there and wait for its turn."""
        # In a task of its own: a connection that is frozen would keep us even from leaving it.
        reading = asyncio.create_task(self._read(digest))
        reading.add_done_callback(_heard)
        for _ in range(_MOST_LOOKS):
            if (await asyncio.wait([reading], timeout=_LOOK_S))[0]:
                break
        try:
            if reading.done():
                return reading.result()
        except Exception as error:
            if not is_away(error):
                raise
        raise LedgerUnavailable("The key cannot be looked up for a moment; please try again.")

    def _looked_up(self, asked: tuple[bytes, int], loading: asyncio.Task[Caller]) -> None:
        del self._loading[asked]
        _heard(loading)

    async def _read(self, digest: bytes) -> Caller:
        snapshot, generation = self._catalog.snapshot, self._generation
        secret_hash = digest.hex()
        rows = await self._database.rows(
            "SELECT k.id, k.account_id, k.expires_us, k.secret_hash, k.old_until_us"
            " FROM api_key k JOIN account a ON a.id = k.account_id"
            " WHERE (k.secret_hash = ? OR (k.old_secret_hash = ? AND k.old_until_us > ?))"
            " AND k.disabled_us IS NULL AND k.revoked_us IS NULL AND a.suspended_us IS NULL",
            [secret_hash, secret_hash, now_us()],
        )
        if not rows:
            raise InvalidKey(_REFUSED)
        key = rows[0]
        models = await self._database.rows("SELECT model_id FROM key_model WHERE api_key_id = ?", [key["id"]])
        scope = frozenset(row["model_id"] for row in models)
        is_old = key["secret_hash"] != secret_hash
        ends = [moment for moment in (key["expires_us"], key["old_until_us"] if is_old else None) if moment is not None]
        caller = Caller(
            key_id=key["id"],
            account_id=key["account_id"],
            # Most keys share their scope with others; one copy serves them all.
            scope=self._scopes.setdefault(scope, scope),
            limits=await limits_of(self._database, snapshot, key["id"], key["account_id"]),
            expires_us=min(ends) if ends else None,
        )
        if generation == self._generation:
            self._keep(digest, caller, self._old_of_key if is_old else self._of_key)
        return caller

    def _keep(self, digest: bytes, caller: Caller, known: dict[int, bytes]) -> None:
        if len(self._callers) >= MOST_CALLERS:
            first, oldest = self._callers.popitem(last=False)
            for names in (self._of_key, self._old_of_key):
                if names.get(oldest.key_id) == first:
                    del names[oldest.key_id]
        self._callers[digest] = caller
        before = known.get(caller.key_id, digest)
        if before != digest:
            # The key has a new secret, and the change feed has not said so yet: it will find the new one only.
            self._callers.pop(before, None)
        known[caller.key_id] = digest


def _heard(reading: asyncio.Task[Caller]) -> None:
    """Whoever asked may be gone; a failure of the database is told elsewhere."""
    if not reading.cancelled():
        reading.exception()
