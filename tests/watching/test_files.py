"""The files for Prometheus and Grafana: valid, and about numbers that the server really has."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.faults.books import leave
from tests.rig import ROOT, Rig
from tests.servers import missing
from tests.watching.numbers import numbers, wait_for

pytestmark = pytest.mark.drill

PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "gateway.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
# Written down only when something of the kind has happened.
_SELECTOR = re.compile(r"(?P<name>\b(?:gateway_\w+|up))\b(?:\{(?P<matchers>[^}]*)\})?")
# What Prometheus itself adds to every number, and to the buckets of a histogram.
_ADDED = {"instance", "job", "le"}


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard and of the rules, with its place."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize("arguments", [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_prometheus_takes_its_files(arguments: tuple[str, str]) -> None:
    if shutil.which("promtool") is None:
        missing("no promtool: install prometheus")
    done = subprocess.run(
        ["promtool", "check", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_every_number_and_label_of_dashboard_and_rules_is_one_of_the_servers(cluster: Rig) -> None:
    rig = cluster
    model = rig.alias("sim:words=30,gap_ms=20,usage=none,tag=files")
    broken = rig.alias("sim:status=500,tag=files")
    ada = rig.customer(models=[model, broken])
    assert (await rig.chat(ada, model)).status == 200
    assert (await rig.chat(ada, broken)).status == 502
    assert (await rig.post({}, b"{}", "/v1/nothing")).status == 404
    await leave(rig, ada, model, events=2)
    await wait_for(rig, "gateway_requests_total", 1, model=model, status="499")
    # The database has been asked.
    async with asyncio.timeout(20):
        while not (told := await numbers(rig)).has("gateway_holds_open"):
            await asyncio.sleep(0.1)
    labels = {sample.name: set(sample.labels) for sample in told.samples} | {"up": {"instance", "job"}}
    used = set()
    for place, expression in expressions():
        names = []
        for found in _SELECTOR.finditer(expression):
            name = found["name"]
            assert name in labels, f"{place}: the server has no {name}"
            names.append(name)
            for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", found["matchers"] or ""):
                assert label in labels[name] | _ADDED, f"{place}: {name} has no label {label}"
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            for label in map(str.strip, grouped.split(",")):
                assert any(label in labels[name] | _ADDED for name in names), f"{place}: nothing has a label {label}"
        assert names, f"{place} is about nothing"
        used |= {re.sub("_bucket$", "", name) for name in names}
    # And the other way about: what the server counts, somebody can see.
    families = {
        f.name + ("_total" if f.type == "counter" else "") for f in told.families if f.name.startswith("gateway_")
    }
    assert families - used == set()


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) >= 12
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_the_dashboard_is_provisioned_with_the_source_that_it_asks() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/gateway.yml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert source["url"] == "http://prometheus:9090"
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    placed = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(placed)) == len(placed), "no panel hides another"
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    targets = jobs[0]["static_configs"][0]["targets"]
    assert {target.split(":")[0] for target in targets} == {name for name in compose if name.startswith("gateway-")}
