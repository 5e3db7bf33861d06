"""Owns one request's books: what was held, admitted and tried for it, and that it is settled exactly once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from gateway.limits import Admission
from gateway.metering import estimate_tokens, is_vocabulary_loaded
from models.errors import DomainError, InsufficientCredits
from models.ids import new_request_id, now_us
from models.money import Capture, Release, Settled
from models.prices import NANO_PER_CREDIT, Meters, PriceVersion, credits_text

if TYPE_CHECKING:
    from gateway.asks import Ask
    from gateway.auth import Caller
    from gateway.catalog import Alias, Route
    from gateway.gateway import Gateway

# Without max_tokens nobody knows; most answers are shorter than this.
_OUTPUT_ESTIMATE = 1_000
SERVED, FAILED, LEFT, REFUSED = "served", "failed", "left", "refused"
UNKNOWN = "unknown"
# Nobody was there to be told; proxies write it so.
CLIENT_GONE = 499
# Counting a long text takes a moment; beyond this many characters the moment is spent in a thread.
_MOST_INLINE_CHARS = 100_000
_NOTHING = Meters()
_encode = msgspec.json.Encoder().encode
log = structlog.get_logger()


class Tried(NamedTuple):
    """An attempt as those who watch see it; moments are of `time.monotonic`."""

    route: Route
    began_at: float
    ended_at: float
    status: int
    error: str


class Turn:
    """Made for every request to chat completions; `close` gives back whatever is still taken."""

    __slots__ = (
        "_answered_at",
        "_attempt_started",
        "_outcome",
        "admission",
        "alias",
        "ask",
        "at_us",
        "attempts",
        "bound",
        "caller",
        "carried",
        "charged_nano",
        "ended_s",
        "error",
        "estimated",
        "first_byte_s",
        "gateway",
        "handed_over",
        "held_nano",
        "input_ceiling",
        "meters",
        "placed",
        "price",
        "provider_s",
        "request_id",
        "route",
        "route_admission",
        "settled",
        "started",
        "status",
        "tried",
    )

    caller: Caller
    ask: Ask
    alias: Alias
    price: PriceVersion

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.at_us = now_us()
        self.started = time.monotonic()
        self.request_id = new_request_id(self.at_us)
        self.admission: Admission | None = None
        self.route_admission: Admission | None = None
        self.placed = False
        self.settled = False
        self.held_nano = 0
        self.input_ceiling = 0
        self.bound: int | None = None
        self.route: Route | None = None
        self.attempts: list[dict[str, Any]] = []
        self.tried: list[Tried] = []
        self.carried: dict[str, str] | None = None
        self._attempt_started = 0.0
        self._answered_at = 0.0
        self.first_byte_s = 0.0
        # What is told of it when it is over: see `watching.py`.
        self.provider_s = 0.0
        self.ended_s = 0.0
        self.status = 0
        self.error = ""
        self._outcome = ""
        self.meters = _NOTHING
        self.charged_nano = 0
        self.estimated = False
        # The handler is gone, a drain settles: until then the places stay taken.
        self.handed_over = False

    # ── hold ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def hold(self) -> None:
        """Hold what this request can cost at most, and bound its output to what is covered.

        Raises InsufficientCredits before any provider is called.
        """
        ask, alias = self.ask, self.alias
        self.input_ceiling = ask.input_ceiling(alias.context_tokens, alias.media_tokens)
        input_rate, output_rate = self.price.dearest(self.at_us, self.input_ceiling)
        input_nano = self.input_ceiling * input_rate
        cap = alias.max_output_tokens
        most_tokens = cap if ask.max_tokens is None else min(ask.max_tokens, cap)
        least_tokens = 1 if ask.max_tokens is None else most_tokens
        each_nano = output_rate * ask.n
        try:
            self.held_nano = await self.gateway.billing.place(
                self.request_id,
                self.caller.account_id,
                input_nano + least_tokens * each_nano,
                input_nano + most_tokens * each_nano,
                price_id=self.price.id,
                at_us=self.at_us,
            )
        except InsufficientCredits as error:
            raise _too_dear(error, is_bounded=ask.max_tokens is not None, is_output_free=not each_nano) from None
        self.placed = True
        self.bound = min(most_tokens, (self.held_nano - input_nano) // each_nano) if each_nano else most_tokens

    def upstream_body(self, route: Route) -> bytes:
        return self.ask.body_for(route.upstream_model, bound=self.bound, max_tokens_field=route.max_tokens_field)

    @property
    def token_estimate(self) -> int:
        """What this request will probably use, for token limits; corrected when it is settled."""
        asked = self.ask.max_tokens
        output = min(_OUTPUT_ESTIMATE if asked is None else asked, self.alias.max_output_tokens)
        return self.ask.input_estimate() + output * self.ask.n

    # ── attempts ──────────────────────────────────────────────────────────────────────────────────────────────────

    def begin_attempt(self, route: Route) -> None:
        self.route = route
        self._attempt_started = time.monotonic()

    @property
    def current_route(self) -> Route:
        assert self.route is not None
        return self.route

    def first_byte(self) -> None:
        if not self.first_byte_s:
            self.first_byte_s = time.monotonic() - self.started

    def provider_done(self) -> None:
        """All that the provider has to say is here; what takes time now is our own."""
        self._answered_at = time.monotonic()

    def end_attempt(self, status: int, cost_nano: int = 0, *, error: str = "") -> None:
        """Note how one route answered; `status` 0 is no answer at all, `error` the kind of its failure."""
        route = self.current_route
        ended_at = self._answered_at or time.monotonic()
        seconds = ended_at - self._attempt_started
        self._answered_at = 0.0
        self.provider_s += seconds
        self.tried.append(Tried(route, self._attempt_started, ended_at, status, error))
        self.attempts.append({"route": route.id, "status": status, "ms": int(seconds * 1000), "cost_nano": cost_nano})
        self.gateway.metrics.count_attempt(self.alias.name, route, status)

    # ── settle, once ──────────────────────────────────────────────────────────────────────────────────────────────

    async def capture(self, meters: Meters, *, estimated: bool = False, outcome: str = SERVED) -> Settled:
        """Charge price × tokens; an estimate never more than was held. It is durable when this returns.

        Cancelled meanwhile, it is charged all the same, and the cancellation comes when that is done. What is told of the
        request is what the ledger did.
        """
        assert not self.settled
        self.settled = True
        charge_nano = self.price.charge_nano(meters, self.at_us)
        if estimated:
            charge_nano = min(charge_nano, self.held_nano)
        cost = self.current_route.cost
        self.end_attempt(200, cost.charge_nano(meters) if cost is not None else 0)
        usage = self._usage_row(outcome, meters, estimated)
        self._correct_limits(meters.total)
        command = Capture(self.request_id, self.caller.account_id, charge_nano, now_us(), usage)

        capturing = self.gateway.billing.capture(command)
        try:
            settled = await capturing
        except asyncio.CancelledError:
            error = capturing.exception()
            if error is None:
                self._charged(capturing.result().charged_nano, meters, estimated, outcome)
            elif not isinstance(error, DomainError):
                log.error(
                    "a settlement failed after its request had ended", request_id=self.request_id, error=repr(error)
                )
            raise
        self._charged(settled.charged_nano, meters, estimated, outcome)
        return settled

    def _charged(self, charged_nano: int, meters: Meters, estimated: bool, outcome: str) -> None:
        self._outcome, self.meters, self.estimated, self.charged_nano = outcome, meters, estimated, charged_nano
        self.gateway.metrics.count_charge(self.alias.name, meters, charged_nano / NANO_PER_CREDIT, estimated)

    def release(self, outcome: str) -> None:
        """Charge nothing. A request that reached a provider leaves its record; others leave no trace but the hold."""
        if self.settled or not self.placed or self.handed_over:
            return
        self.settled = True
        self._outcome = outcome
        usage = self._usage_row(outcome, _NOTHING, False) if self.attempts else None
        self.gateway.billing.release(Release(self.request_id, self.caller.account_id, now_us(), usage))

    async def estimate(self, text: str | bytes) -> Meters:
        """Meters by our own count, for a provider that did not count, or counted nonsense."""
        written = text if isinstance(text, str) else text.decode("utf-8", "replace")
        prompt = self.ask.prompt_text()
        if len(written) + len(prompt) > _MOST_INLINE_CHARS or not is_vocabulary_loaded():
            counts = await asyncio.to_thread(lambda: (estimate_tokens(prompt), estimate_tokens(written)))
        else:
            counts = estimate_tokens(prompt), estimate_tokens(written)
        media = self.ask.media_parts * self.alias.media_tokens
        return Meters(fresh=min(self.input_ceiling, counts[0] + 4 * self.ask.messages + media), output=counts[1])

    def give_back(self) -> None:
        """A refusal or failure: tokens that nobody used are given back with the places."""
        for admission in (self.admission, self.route_admission):
            if admission is not None:
                self.gateway.limiter.refund(admission)

    def close(self) -> None:
        """The places are free again, and the request is over, unless a drain has taken it over. Safe to repeat."""
        if self.handed_over:
            return
        for admission in (self.admission, self.route_admission):
            if admission is not None:
                self.gateway.limiter.leave(admission)
        if not self.ended_s:
            self.ended_s = time.monotonic() - self.started
            self.status = self.status or CLIENT_GONE
            self.gateway.watch.finished(self)

    @property
    def lines(self) -> str:
        """Header lines that every response to this request carries: its id, and how its limits stand."""
        lines = f"x-request-id: {self.request_id}\r\n"
        return lines + self.gateway.limiter.lines(self.admission.limits) if self.admission is not None else lines

    def answered(self, status: int, error: str = "") -> None:
        """What the client was told: the status, or the one it would have been when the error came in a stream."""
        self.status, self.error = status, error

    @property
    def outcome(self) -> str:
        """As in the usage record, where there is one; `refused` for what came to no provider."""
        return self._outcome or (LEFT if self.status in (0, CLIENT_GONE) else FAILED if self.status >= 500 else REFUSED)

    @property
    def is_unknown(self) -> bool:
        return getattr(self, "alias", None) is None

    @property
    def alias_name(self) -> str:
        """Of the catalog, never what a client made up."""
        return UNKNOWN if self.is_unknown else self.alias.name

    def _correct_limits(self, tokens: int) -> None:
        for admission in (self.admission, self.route_admission):
            if admission is not None and admission.limits:
                self.gateway.limiter.correct(admission, tokens)

    def _usage_row(self, outcome: str, meters: Meters, estimated: bool) -> tuple[Any, ...]:
        """The columns of `models.ledger_steps.USAGE_COLUMNS`, in their order."""
        return (
            self.request_id,
            self.at_us,
            self.caller.account_id,
            self.caller.key_id,
            self.alias.id,
            self.attempts[-1]["route"],
            self.price.id,
            outcome,
            self.ask.stream,
            estimated,
            meters.fresh,
            meters.cached,
            meters.written,
            meters.output,
            int(self.first_byte_s * 1000),
            int((time.monotonic() - self.started) * 1000),
            sum(attempt["cost_nano"] for attempt in self.attempts),
            _encode(self.attempts).decode(),
        )


def _too_dear(error: InsufficientCredits, *, is_bounded: bool, is_output_free: bool) -> InsufficientCredits:
    """What is needed, what there is, and what would help; without a bound only the input and a first token are needed."""
    needed = f"{credits_text(error.needed_nano)} credits"
    costs = f"can cost {needed}" if is_bounded else f"needs at least {needed} for its input and a first token"
    less = "fewer tokens (a smaller max_tokens helps)" if is_bounded and not is_output_free else "a shorter input"
    return InsufficientCredits(
        f"Insufficient credits: this request {costs} and {credits_text(error.available_nano)} are available. Top up in the "
        f"dashboard under Billing, or send {less}.",
        available_nano=error.available_nano,
        needed_nano=error.needed_nano,
    )
