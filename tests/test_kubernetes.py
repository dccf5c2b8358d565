"""The manifests for Kubernetes are what its schemas allow, name what exists, and stop workers as workers stop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import TypeAdapter

from app.settings import Settings as ServerSettings
from lrtune.store.census import Census
from worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[1]
HERE = ROOT / "deploy" / "kubernetes"
FILES = sorted(HERE.glob("*/*.yaml"))
SCHEMAS = "1.30"


def documents(*files: Path) -> Iterator[dict[str, Any]]:
    for file in files:
        yield from yaml.safe_load_all(file.read_text())


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in documents(*FILES):
        if one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_manifest_is_what_the_schemas_of_kubernetes_allow(file: Path) -> None:
    for one in documents(file):
        if one["apiVersion"].partition("/")[0] not in ("kustomize.config.k8s.io", "keda.sh"):
            kubernetes_validate.validate(one, SCHEMAS, strict=True)


def test_every_manifest_is_in_its_kustomization() -> None:
    for kustomization in HERE.glob("*/kustomization.yaml"):
        (found,) = documents(kustomization)
        files = {one.name for one in kustomization.parent.glob("*.yaml")} - {kustomization.name}
        assert {one for one in found["resources"] if one.endswith(".yaml")} == files
        for generator in (*found.get("configMapGenerator", ()), *found.get("secretGenerator", ())):
            assert all((kustomization.parent / env).exists() for env in generator["envs"])


def test_every_variable_is_a_setting_and_of_the_right_kind() -> None:
    settings = {
        f"LRTUNE_{name.upper()}": field
        for kind in (ServerSettings, WorkerSettings)
        for name, field in kind.model_fields.items()
    }
    given = [
        line.split("=", 1) for env in HERE.glob("*/s*.env") for line in env.read_text().splitlines() if line[:1] != "#"
    ]
    given += [(one["name"], one["value"]) for _, pod in pods() for c in pod["containers"] for one in c.get("env", ())]
    assert len(given) > 4
    for name, value in given:
        if name != "LRTUNE_API_KEY":  # the next test
            TypeAdapter(settings[name].annotation).validate_python(value)


def test_the_example_key_starts_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = dict(
        line.split("=", 1) for line in (HERE / "base" / "secrets.env").read_text().splitlines() if line[0] != "#"
    )
    with pytest.raises(ValueError, match="16 or more"):
        ServerSettings(api_key=secrets["LRTUNE_API_KEY"])


def test_images_and_commands_are_those_of_the_dockerfile() -> None:
    (kustomization,) = documents(HERE / "base" / "kustomization.yaml")
    known = {one["name"] for one in kustomization["images"]}
    targets = {
        f"lrtune-{line.split()[-1]}" for line in (ROOT / "Dockerfile").read_text().splitlines() if " AS " in line
    }
    for name, pod in pods():
        for container in pod["containers"]:
            assert container["image"] in known & targets, name
            assert pod["securityContext"]["runAsUser"] == 10001, "the image's user"


def test_workers_have_the_time_to_hand_their_trials_back() -> None:
    worker = dict(pods())["lrtune-worker"]
    assert worker["terminationGracePeriodSeconds"] >= 60
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_workers_are_scaled_by_a_metric_that_there_is() -> None:
    (scaled,) = documents(HERE / "keda" / "scaled-object.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] in dict(pods())
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["valueLocation"] == "lrtune_workers_wanted"
    assert "wanted" in Census.__slots__
