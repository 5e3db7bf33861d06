"""The compose file: valid by its schema, whole with the variables of `.env.example`, and true to the settings."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.misspelled import misspelled
from gateway.settings import Settings, variable_of
from gateway.workers import _ENDED_WITHIN_S
from tests.rig import ROOT

FOLDER = ROOT / "docker"
TEXT = (FOLDER / "compose.yaml").read_text()
EXAMPLE = (FOLDER / ".env.example").read_text()
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<how>:-|:\?)?(?P<rest>[^}]*)\}")
SECRETS = ("GATEWAY_SECRET_KEY", "POSTGRES_PASSWORD", "OPS_DATABASE_PASSWORD", "JUPYTER_TOKEN", "GRAFANA_PASSWORD")
# OpenTelemetry's own variables.
TRACES = {
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
}
SETTINGS = {variable_of(name) for name in Settings.model_fields}


def example() -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))


def filled_in() -> dict[str, str]:
    """As an operator fills it in: whatever is required."""
    required = {found["name"] for found in VARIABLE.finditer(TEXT) if found["how"] == ":?"}
    return {name: value or ("0123456789abcdef" * 4 if name in required else "") for name, value in example().items()}


@functools.cache
def compose() -> dict[str, Any]:
    """As Docker reads it, with every variable in its place."""
    given = filled_in()

    def value(found: re.Match[str]) -> str:
        return given.get(found["name"]) or (found["rest"] if found["how"] == ":-" else "")

    def put_in(node: Any) -> Any:
        match node:
            case str():
                return VARIABLE.sub(value, node)
            case dict():
                return {key: put_in(each) for key, each in node.items()}
            case list():
                return [put_in(each) for each in node]
        return node

    document: dict[str, Any] = put_in(yaml.safe_load(TEXT))
    return document


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def test_it_is_valid_by_the_schema_of_compose_files() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(compose())
    broken = {**compose(), "services": {"gateway": {"image": "x", "healthchek": {}}}}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_every_variable_is_in_the_example_and_no_other() -> None:
    used = {found["name"] for found in VARIABLE.finditer(TEXT)}
    assert set(example()) == used


def test_what_has_no_default_is_asked_for_in_one_line() -> None:
    for found in VARIABLE.finditer(TEXT):
        assert found["how"], f"{found['name']} would silently be empty"
        if found["how"] == ":?":
            assert re.fullmatch(r"is not set; put .* into docker/\.env(, .*)?", found["rest"]), found[0]
    required = {found["name"] for found in VARIABLE.finditer(TEXT) if found["how"] == ":?"}
    assert required == {*SECRETS, "GATEWAY_PUBLIC_URL", "OPS_OPERATOR"}
    # A secret that somebody could forget to change is none.
    assert not any(example()[name] for name in SECRETS)


def test_the_example_has_every_setting_with_its_default() -> None:
    decided = set(re.findall(r"^# ([A-Z_]+)  +\w", EXAMPLE, re.MULTILINE))
    assert set(example()) & decided == set()
    assert SETTINGS - set(example()) == decided
    meant_for_gateways = {name for name in example() if name.startswith(("GATEWAY_", "STRIPE_"))}
    assert meant_for_gateways - SETTINGS == {
        "GATEWAY_VERSION", "GATEWAY_MEMORY", "GATEWAY_CPUS", "GATEWAY_STOP_GRACE",
    }  # fmt: skip
    assert not list(misspelled(example())), "a server that is started beside this file would warn of them"
    for name, field in Settings.model_fields.items():
        shown = example().get(variable_of(name))
        if shown and field.default is not None and variable_of(name) != "GATEWAY_WORKERS":
            assert type(field.default)(shown) == field.default, f"{variable_of(name)} is {field.default} by default"


def test_every_line_of_the_example_is_explained() -> None:
    explained = False
    for line in EXAMPLE.splitlines():
        if re.match(r"[A-Z_]+=", line):
            assert explained, f"nothing says what {line} is for"
        # One comment may be for the lines that follow it at once.
        explained = (line.startswith("# ") and not line.startswith("# ──")) or (explained and bool(line))


def test_the_gateways_get_every_setting_and_start_with_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gateway.settings import load_settings

    for gateway in ("gateway-1", "gateway-2"):
        given = services()[gateway]["environment"]
        # What the image decides.
        assert set(given) == (SETTINGS | TRACES) - {"GATEWAY_HOST", "GATEWAY_PORT"}
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.chdir(tmp_path)
        settings = load_settings()
        assert settings.database.dialect == "postgres"
        assert settings.workers > 1
        assert settings.redis_url


def seconds(text: str) -> float:
    return sum(float(n) * {"s": 1, "m": 60}[unit] for n, unit in re.findall(r"(\d+)([sm])", text))


def test_docker_waits_for_as_long_as_a_gateway_may_take_to_end() -> None:
    shutdown = float(example()["GATEWAY_SHUTDOWN_S"])
    for gateway in ("gateway-1", "gateway-2"):
        assert seconds(services()[gateway]["stop_grace_period"]) > shutdown + _ENDED_WITHIN_S
    assert seconds(services()["postgres"]["stop_grace_period"]) > seconds(services()["gateway-1"]["stop_grace_period"])


def test_the_proxy_alone_is_believed_and_prometheus_alone_reads_numbers() -> None:
    def addresses(service: str) -> set[str]:
        networks = services()[service]["networks"]
        return {n["ipv4_address"] for n in networks.values() if n} if isinstance(networks, dict) else set()

    (inside,) = compose()["networks"]["inside"]["ipam"]["config"]
    members = {name for name, service in services().items() if "inside" in (service.get("networks") or ())}
    assert members == {"gateway-1", "gateway-2", "proxy", "prometheus"}
    for name in members:
        (address,) = addresses(name)
        assert ipaddress.ip_address(address) in ipaddress.ip_network(inside["subnet"])
    gateway = services()["gateway-1"]
    assert {gateway["environment"]["GATEWAY_TRUSTED_PROXIES"]} == addresses("proxy")
    assert {gateway["environment"]["GATEWAY_METRICS_ALLOW"]} == addresses("prometheus")
    # By no other way do these two reach a gateway, or their address would be another one.
    for other in ("proxy", "prometheus"):
        assert set(services()[other]["networks"]) & set(gateway["networks"]) == {"inside"}


def test_only_the_proxy_is_reached_from_outside() -> None:
    for name, service in services().items():
        for port in service.get("ports", ()):
            assert name == "proxy" or port.startswith("127.0.0.1:"), f"{name} listens to everybody at {port}"
    assert {n for n, s in services().items() if "data" in (s.get("networks") or ())} == {
        "postgres", "redis", "migrate", "operator-role", "gateway-1", "gateway-2", "notebooks",
    }  # fmt: skip
    assert compose()["networks"]["data"]["internal"] is True


def test_notebooks_do_not_sign_in_as_the_owner_of_the_tables() -> None:
    environment = services()["notebooks"]["environment"]
    assert environment["GATEWAY_DATABASE_URL"].startswith("postgres://operators:")
    assert "POSTGRES_PASSWORD" not in environment
    assert services()["operator-role"]["command"] == ["operator-role", "operators", "--apply"]


def test_each_service_is_bounded_watched_and_started_in_its_turn() -> None:
    images_with_a_check = {"gateway-1", "gateway-2", "notebooks", "grafana"}
    for name, service in services().items():
        if service["restart"] == "no":
            continue
        assert "mem_limit" in service, name
        assert "logging" in service, name
        assert "healthcheck" in service or name in images_with_a_check, name
    for gateway in ("gateway-1", "gateway-2"):
        assert services()[gateway]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services()["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert services()["proxy"]["depends_on"]["gateway-1"] == {"condition": "service_healthy"}


def test_every_file_that_a_service_is_given_is_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", ()):
            source = volume.split(":", 1)[0]
            if source.startswith("./") and source != "./tls":
                assert (FOLDER / source).exists(), f"{name}: {source}"
            elif not source.startswith("."):
                assert source in compose()["volumes"], f"{name}: {source}"
