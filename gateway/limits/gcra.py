"""Owns the rate arithmetic (GCRA), pure: one number per limit, the moment at which its bucket will be full again.

In any t seconds at most `quota × (1 + t / window)` is admitted. Moments are seconds of a monotonic clock.
"""

from __future__ import annotations

# Sums of many small steps must not refuse the last unit of a quota.
_SLACK_S = 1e-6


def take(full_at: float, now: float, cost: int, quota: int, window_s: float) -> float | None:
    """The new `full_at` after taking `cost`, or None when it does not fit. A cost above the quota needs a full bucket."""
    cost = min(cost, quota)
    after = (full_at if full_at > now else now) + cost * window_s / quota
    return after if after - now <= window_s + _SLACK_S else None


def wait_s(full_at: float, now: float, cost: int, quota: int, window_s: float) -> float:
    """Seconds until `cost` fits."""
    return max(0.0, full_at + min(cost, quota) * window_s / quota - window_s - now)


def remaining(full_at: float, now: float, quota: int, window_s: float) -> int:
    """How many units fit now."""
    used_s = max(0.0, full_at - now)
    return max(0, int((window_s - used_s) * quota / window_s + _SLACK_S))


def shift(full_at: float, now: float, units: int, step_s: float) -> float:
    """Count `units` more (or, negative, fewer) than was taken, each of `step_s` seconds."""
    return max(full_at, now) + units * step_s
