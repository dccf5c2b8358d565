"""deploy/: the alerts and the dashboard ask for metrics that there are, with the labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from app.main import create_app
from app.settings import Settings
from lrtune.cli.commands import app
from tests.serving import served

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = json.loads((DEPLOY / "grafana/lrtune.json").read_text())["panels"]
ASKED = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SELECTOR = re.compile(r"\b(lrtune[_:][a-z_:0-9]*)(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every metric that a server has had occasion to count."""
    folder = tmp_path_factory.mktemp("metrics")
    with served(f"sqlite:///{folder / 'lrtune.db'}", data_dir=folder) as service:
        job = service.post("/v1/jobs", json={"task": "external", "horizon": {"steps": 20}, "metric": METRIC}).json()[
            "id"
        ]
        assert service.post(f"/v1/jobs/{job}/trials").status_code == 200
        text = service.get("/metrics").text
    found = dict[str, set[str]]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


METRIC = {"name": "loss", "goal": "minimize"}


@pytest.mark.parametrize("expression", ASKED)
def test_what_is_asked_for_is_there(expression: str, metrics: dict[str, set[str]]) -> None:
    asked = SELECTOR.findall(expression)
    assert asked or 'up{job="lrtune"}' in expression
    for name, labels in asked:
        assert name in RECORDED or name in metrics, name
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", labels)) <= metrics.get(name, set()), labels
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
    assert grouped <= set().union(*(metrics.get(name, set()) for name, _ in asked))
    assert [expression.count(one) for one in "([{"] == [expression.count(one) for one in ")]}"]


@pytest.mark.parametrize("expression", ASKED)
def test_what_every_server_says_of_the_same_database_is_not_added_up(expression: str) -> None:
    """Two servers that are scraped both know of all workers: their sum is twice as many device hours."""
    assert not re.search(r"\bsum\b[^(]*(?:\([^)]*\) )?\(lrtune_(workers|jobs|trials|queue|leases)", expression)


def test_every_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len(alerts) >= 8
    for alert in alerts:
        assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert set(alert["annotations"]) == {"summary", "description"}


def test_the_dashboard_has_a_place_and_a_query_for_every_panel() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(panel["targets"] and panel["title"] for panel in PANELS)


def test_the_scrape_asks_for_the_path_that_there_is() -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert scrape["rule_files"] == ["alerts.yml"]
    (lrtune,) = scrape["scrape_configs"]
    assert lrtune["job_name"] == "lrtune"
    assert "/metrics" in create_app(Settings(database_url="sqlite://")).openapi()["paths"]


UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_of_systemd_start_commands_with_settings_that_there_are(unit: Path) -> None:
    lines = [line.partition("=") for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    given = [(name, value) for name, _, value in lines]
    (command,) = [value.split()[1:] for name, value in given if name == "ExecStart"]
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0
    settings = {value.partition("=")[0] for name, value in given if name == "Environment"}
    assert settings <= set(re.findall(r"`(LRTUNE_\w+)`", (DEPLOY.parent / "README.md").read_text()))
    assert ("KillMode", "mixed") in given, "a second SIGTERM would kill what the first one is to end in good order"
    assert f"{unit.stem.removesuffix('@')}" in (DEPLOY.parent / "docs/operations.md").read_text()


def test_who_has_signed_out_is_known_when_the_container_is_another() -> None:
    services = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())["services"]
    folder = Path(services["app"]["environment"]["LRTUNE_CREDENTIALS"]).parent
    assert f"data:{folder}" in services["app"]["volumes"]
