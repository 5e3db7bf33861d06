"""Owns what may be called: an immutable snapshot of aliases, prices, routes and limits, swapped when the change feed says.

A request reads one snapshot and never the database. Prices dated ahead are in it, and take effect at their second.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.limits import Limit
from models.changes import CATALOG, LIMITS
from models.database import Database
from models.errors import ModelNotAllowed, SetupError
from models.ids import now_us
from models.price_list import LIVE
from models.prices import PriceVersion, Rates, price_from_row
from models.secrets import Seal

# A revoked key must be refused within a second. That is counted in looks, for in a loop that lags the change may be there and
# wait for its turn; a process that was frozen has missed its looks, and counts seconds.
LOOK_S, _MOST_LOOKS, _FRESH_S = 0.15, 6, 4.0
_PAGE = 1000
_MOST_READS = 5
log = structlog.get_logger()


class Route(msgspec.Struct, frozen=True):
    """One way to serve an alias, with everything that calling it needs, made ready once."""

    id: int
    provider: str
    url: URL
    headers: CIMultiDictProxy[str]
    credential: str
    upstream_model: str
    position: int
    weight: int
    max_tokens_field: str
    cost: Rates | None
    limits: tuple[Limit, ...]


class Alias(msgspec.Struct, frozen=True):
    """A published model with at least one enabled route. `prices` ascends by date: the one in force, then later ones."""

    id: int
    name: str
    owned_by: str
    created_s: int
    context_tokens: int
    max_output_tokens: int
    media_tokens: int
    prices: tuple[PriceVersion, ...]
    routes: tuple[Route, ...]

    def price_at(self, at_us: int) -> PriceVersion | None:
        found = None
        for price in self.prices:
            if price.effective_us > at_us:
                break
            found = price
        return found


class Snapshot(msgspec.Struct, frozen=True):
    aliases: dict[str, Alias]
    defaults: dict[str, tuple[Limit, ...]]  # by subject: "key", "account", "route"

    def find(self, name: str, scope: frozenset[int], at_us: int) -> tuple[Alias, PriceVersion]:
        """The alias if this scope may call it now, and its price. Raises ModelNotAllowed, the same for every reason."""
        alias = self.aliases.get(name)
        if alias is not None and alias.id in scope:
            price = alias.price_at(at_us)
            if price is not None:
                return alias, price
        raise ModelNotAllowed(
            f"This API key may not use the model {name[:200]!r}, or the model is not available. GET /v1/models lists "
            "the models of this key; its scope can be changed in the dashboard."
        )

    def listed(self, scope: frozenset[int] | None, at_us: int) -> list[tuple[Alias, PriceVersion]]:
        """Every alias that `find` would find; without a scope, all that can be called now."""
        found = []
        for alias in self.aliases.values():
            price = alias.price_at(at_us) if scope is None or alias.id in scope else None
            if price is not None:
                found.append((alias, price))
        return found


async def load_snapshot(database: Database, seal: Seal, *, strict: bool = False) -> Snapshot:
    """Read the catalog in four queries. `strict`: a credential that cannot be opened is raised, not left out."""
    now = now_us()
    limits = await _load_limits(database)
    defaults = {subject: tuple(limits.get((f"default_{subject}", 0), ())) for subject in ("key", "account", "route")}
    routes: dict[int, list[Route]] = defaultdict(list)
    doors: dict[str, _Door] = {}
    for row in await database.rows(
        "SELECT r.id, r.model_id, r.upstream_model, r.position, r.weight, r.cost_input_nano, r.cost_cached_input_nano,"
        " r.cost_cache_write_nano, r.cost_output_nano, p.name, p.base_url, p.credential, p.max_tokens_field"
        " FROM route r JOIN provider p ON p.id = r.provider_id WHERE r.enabled ORDER BY r.position, r.id"
    ):
        own = _with_defaults(limits.get(("route", row["id"]), []), defaults["route"], row["id"])
        try:
            if row["name"] not in doors:
                doors[row["name"]] = _door(row, seal)
            routes[row["model_id"]].append(_route(row, doors[row["name"]], own))
        except SetupError as error:
            if strict:
                raise
            log.error("a route is left out", route=row["id"], error=str(error))
    prices = await _load_prices(database, now)
    aliases: dict[str, Alias] = {}
    for row in await database.rows("SELECT * FROM model WHERE published ORDER BY alias"):
        if routes[row["id"]] and prices[row["id"]]:
            aliases[row["alias"]] = Alias(
                id=row["id"],
                name=row["alias"],
                owned_by=row["owned_by"],
                created_s=row["created_us"] // 1_000_000,
                context_tokens=row["context_tokens"],
                max_output_tokens=row["max_output_tokens"],
                media_tokens=row["media_tokens"],
                prices=tuple(prices[row["id"]]),
                routes=tuple(routes[row["id"]]),
            )
    return Snapshot(aliases, defaults)


async def limits_of(database: Database, snapshot: Snapshot, key_id: int, account_id: int) -> tuple[Limit, ...]:
    """The key's and the account's limits, with the defaults for units in which they have none of their own."""
    limits = await _load_limits(
        database, " WHERE (subject = 'key' AND subject_id = ?) OR (subject = 'account' AND subject_id = ?)",
        [key_id, account_id],
    )  # fmt: skip
    found: tuple[Limit, ...] = ()
    for subject, id_ in (("key", key_id), ("account", account_id)):
        found += _with_defaults(limits.get((subject, id_), []), snapshot.defaults[subject], id_)
    return found


async def _load_limits(
    database: Database,
    where: str = " WHERE subject NOT IN ('key', 'account')",
    values: list[Any] | None = None,
) -> dict[tuple[str, int], list[Limit]]:
    limits: dict[tuple[str, int], list[Limit]] = defaultdict(list)
    for row in await database.rows(
        f'SELECT subject, subject_id, unit, quota, window_s FROM "limit"{where} ORDER BY id', values
    ):
        subject = row["subject"].removeprefix("default_")
        limit = Limit(subject, row["subject_id"], row["unit"], row["quota"], row["window_s"])
        limits[row["subject"], row["subject_id"]].append(limit)
    return limits


def _with_defaults(own: list[Limit], defaults: tuple[Limit, ...], subject_id: int) -> tuple[Limit, ...]:
    """A subject's limits; the default stands in for each unit in which it has none of its own."""
    units = {limit.unit for limit in own}
    missing = [limit for limit in defaults if limit.unit not in units]
    return (*own, *(msgspec.structs.replace(limit, subject_id=subject_id) for limit in missing))


async def _load_prices(database: Database, now: int) -> dict[int, list[PriceVersion]]:
    """By model: the price in force and all that come after it; none that was cancelled."""
    prices: dict[int, list[PriceVersion]] = defaultdict(list)
    for row in await database.rows(
        f"SELECT p.* FROM price p WHERE {LIVE.format('p')} AND p.effective_us >= COALESCE((SELECT MAX(q.effective_us)"
        f" FROM price q WHERE q.model_id = p.model_id AND q.effective_us <= ? AND {LIVE.format('q')}), 0)"
        " ORDER BY p.model_id, p.effective_us",
        [now],
    ):
        prices[row["model_id"]].append(price_from_row(row))
    return prices


class _Door(msgspec.Struct, frozen=True):
    """What all routes to one provider share; the client library remembers what it worked out about a URL."""

    url: URL
    headers: CIMultiDictProxy[str]
    credential: str


def _door(row: dict[str, Any], seal: Seal) -> _Door:
    credential = seal.open(row["credential"])
    headers = CIMultiDict({"Content-Type": "application/json", "User-Agent": "supertomorrow-gateway"})
    if credential:
        headers["Authorization"] = f"Bearer {credential}"
    return _Door(URL(row["base_url"].rstrip("/") + "/chat/completions"), CIMultiDictProxy(headers), credential)


def _route(row: dict[str, Any], door: _Door, limits: tuple[Limit, ...]) -> Route:
    cost = None
    if row["cost_input_nano"] is not None:
        fresh = row["cost_input_nano"]
        cost = Rates(
            fresh,
            fresh if row["cost_cached_input_nano"] is None else row["cost_cached_input_nano"],
            fresh if row["cost_cache_write_nano"] is None else row["cost_cache_write_nano"],
            row["cost_output_nano"] or 0,
        )
    return Route(
        id=row["id"],
        provider=row["name"],
        url=door.url,
        headers=door.headers,
        credential=door.credential,
        upstream_model=row["upstream_model"],
        position=row["position"],
        weight=row["weight"],
        max_tokens_field=row["max_tokens_field"],
        cost=cost,
        limits=limits,
    )


class Catalog:
    """The current snapshot, and where in the change feed it stands."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal
        self._last_change = 0
        self.snapshot = Snapshot({}, {"key": (), "account": (), "route": ()})
        self.read_at = time.monotonic()
        self._looks = 0

    @property
    def is_fresh(self) -> bool:
        """False when the change feed was not read for so long that a revoked key might be taken for a good one."""
        return self._looks < _MOST_LOOKS and time.monotonic() - self.read_at < _FRESH_S

    async def look(self) -> None:
        """Called every LOOK_S."""
        self._looks += 1

    async def start(self) -> None:
        for row in await self._database.rows("SELECT credential FROM provider ORDER BY id DESC LIMIT 1"):
            # A wrong secret is found out now, and not by the first route of tomorrow.
            self._seal.open(row["credential"])
        self._last_change = await self._newest_change()
        self.snapshot = await self._load(strict=True)
        self.read_at = time.monotonic()

    async def follow(self, on_key: Callable[[str, int], None], on_limits: Callable[[], None]) -> None:
        """Act on every change since the last call. One that could not be acted upon is read again by the next call."""
        asked_at = time.monotonic()
        rows = await self._database.rows(
            "SELECT id, kind, subject_id FROM change WHERE id > ? ORDER BY id LIMIT ?", [self._last_change, _PAGE]
        )
        kinds = {row["kind"] for row in rows}
        # Keys first: a revoked key must die even if the catalog cannot be read.
        for kind, subject_id in {(row["kind"], row["subject_id"]) for row in rows}:
            on_key(kind, subject_id)
        if len(rows) < _PAGE:
            self.read_at, self._looks = asked_at, 0
        if kinds & {CATALOG, LIMITS}:
            self.snapshot = await self._load()
        if LIMITS in kinds:
            on_limits()
        if rows:
            self._last_change = rows[-1]["id"]

    async def _load(self, *, strict: bool = False) -> Snapshot:
        """As it stood at one moment: it takes several queries, and is read again if something was changed between them.

        Else a model whose route was just replaced could be without any until the next change is read.
        """
        for _ in range(_MOST_READS):
            before = await self._newest_change()
            snapshot = await load_snapshot(self._database, self._seal, strict=strict)
            if await self._newest_change() == before:
                break
        return snapshot

    async def _newest_change(self) -> int:
        rows = await self._database.rows("SELECT MAX(id) AS id FROM change")
        return rows[0]["id"] or 0
