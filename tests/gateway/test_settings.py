"""Settings: a wrong one is told in one line: its variable, what was given, what would be right; never a secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings, variable_of
from models.errors import SetupError

# What is given, and a word of the remedy.
WRONG: dict[str, dict[str, str]] = {
    "GATEWAY_DATABASE_URL": {
        "mysql://user:canary@host/db": "postgres://user:password@host:port/name",
        "gateway.db": "sqlite://PATH",
        "sqlite:/gateway.db": "sqlite://PATH",
        "sqlite://": "sqlite://var/gateway.db",
        "sqlite://:memory:": "sqlite://var/gateway.db",
        "postgres://user:canary@host": "postgres://user:password@host:5432/gateway",
        "postgres://user:canary@host:99999/db": "postgres://user:password@host:5432/gateway",
        "postgres://user:canary@host:port/db": "postgres://user:password@host:5432/gateway",
        "postgres://[::1/db": "postgres://user:password@host:5432/gateway",
        "postgres://user:canary@host/db?sslmode=perhaps": "one of disable, prefer",
        "postgres://user:canary@host/db?pool=3": "only sslmode",
    },
    "GATEWAY_REDIS_URL": {
        "http://host": "redis://host:port/0",
        "redis//:canary@host/0": "redis://host:port/0",
        "redis://host/zero": "redis://host:port/0",
    },
    "GATEWAY_PORT": {
        "-1": "port to listen on",
        "65536": "less than or equal to 65535",
        "http": "valid integer",
        "tcp://10.0.0.7:8000": "enableServiceLinks: false, or set it, or --port",
    },
    "GATEWAY_WORKERS": {"0": "greater than or equal to 1", "257": "256", "two": "valid integer"},
    "GATEWAY_SECRET_KEY": {"canary": "must have at least 16 characters; make one with: openssl rand -hex 32"},
    "GATEWAY_SIGNUP": {"Open": "'closed', 'invite' or 'open'"},
    "GATEWAY_PUBLIC_URL": {
        "api.example.com": "as https://api.example.com",
        "https://api.example.com/": "without a path",
        "ftp://api.example.com": "as https://api.example.com",
    },
    "STRIPE_SECRET_KEY": {"canary": "set both"},
    "STRIPE_WEBHOOK_SECRET": {"canary": "set both"},
    "STRIPE_API_URL": {"stripe.example": "where Stripe's API is answered"},
    "GATEWAY_UPSTREAM_CONNECT_TIMEOUT_S": {"0": "greater than 0", "inf": "finite"},
    "GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S": {"nan": "finite"},
    "GATEWAY_UPSTREAM_IDLE_TIMEOUT_S": {"-1": "greater than 0"},
    "GATEWAY_WRITE_TIMEOUT_S": {"1e400": "finite"},
    "GATEWAY_KEEP_ALIVE_S": {"15s": "valid number"},
    "GATEWAY_DRAIN_S": {"-0.1": "0 = cut"},
    "GATEWAY_DRAIN_MAX": {"-1": "greater than or equal to 0", "1.5": "valid integer"},
    "GATEWAY_SHUTDOWN_S": {"-1": "greater than or equal to 0"},
    "GATEWAY_BODY_MAX_MIB": {"0": "greater than or equal to 1", "1025": "1024"},
    "GATEWAY_COOLDOWN_AFTER": {"0": "greater than or equal to 1"},
    "GATEWAY_COOLDOWN_S": {"0": "greater than 0"},
    "GATEWAY_DATABASE_POOL": {"0": "greater than or equal to 1", "101": "100"},
    "GATEWAY_METRICS_ALLOW": {"10.0.0.0/8, everywhere": "as 10.0.0.0/8", "10.0.0.1/8": "as 10.0.0.0/8"},
    "GATEWAY_TRUSTED_PROXIES": {"10.0.0.0/33": "as 10.0.0.0/8"},
    "GATEWAY_LOG_FORMAT": {"xml": "'pretty' or 'json'"},
    "GATEWAY_LOG_REQUESTS": {"perhaps": "valid boolean"},
}
# Any text will do; whether it can be listened on or written to is seen, and said, at the start.
FREE = {"GATEWAY_HOST", "GATEWAY_BRAND", "GATEWAY_CONTACT", "GATEWAY_SPOOL_DIR"}


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], str]:
    """What is said of one variable, alone in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "STRIPE_")):
            monkeypatch.delenv(name)

    def told(variable: str, value: str) -> str:
        with monkeypatch.context() as given:
            given.setenv(variable, value)
            with pytest.raises(SetupError) as refused:
                load_settings()
        return str(refused.value)

    return told


def test_every_setting_has_its_wrong_values_here() -> None:
    assert set(WRONG) | FREE == {variable_of(name) for name in Settings.model_fields}


@pytest.mark.parametrize("variable", WRONG)
def test_a_wrong_value_is_one_line_with_the_variable_and_the_remedy(
    variable: str, refusal: Callable[[str, str], str]
) -> None:
    for value, remedy in WRONG[variable].items():
        told = refusal(variable, value)
        # Of two that go together, the one that is missing is named first.
        assert variable in told if variable.startswith("STRIPE") else told.startswith(f"{variable}: ")
        assert remedy in told
        assert "\n" not in told
        assert "canary" not in told
