"""The manifests for Kubernetes are what its schemas allow, name what exists, and stop workers as workers stop."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import TypeAdapter
from typer.main import get_command

from app.settings import Settings as ServerSettings
from lrtune.cli.service import app
from lrtune.optimizers import OPTIMIZERS
from lrtune.store.census import Census
from lrtune.wire.tasks import BUILT_IN
from worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[1]
HERE = ROOT / "deploy" / "kubernetes"
FILES = sorted(HERE.glob("*/*.yaml"))
SCHEMAS = "1.30"
OTHERS = "kustomize.config.k8s.io", "keda.sh"  # of whose kinds Kubernetes has no schemas


def documents(*files: Path) -> Iterator[dict[str, Any]]:
    for file in files:
        yield from yaml.safe_load_all(file.read_text())


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in documents(*FILES):
        if one.get("kind") in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]
        if one.get("kind") == "RayJob":
            for group in groups(one):
                yield group["template"]["spec"]["containers"][0]["name"], group["template"]["spec"]


def groups(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = ray_job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_manifest_is_what_the_schemas_of_kubernetes_allow(file: Path) -> None:
    for one in documents(file):
        if one.get("kind") == "RayJob":
            for group in groups(one):
                pod = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "ray"},
                    "spec": group["template"]["spec"],
                }
                kubernetes_validate.validate(pod, SCHEMAS, strict=True)
        elif one.get("apiVersion", "kustomize").partition("/")[0] not in ("kustomize", *OTHERS):
            kubernetes_validate.validate(one, SCHEMAS, strict=True)


def test_every_manifest_is_in_its_kustomization() -> None:
    for kustomization in HERE.glob("*/kustomization.yaml"):
        (found,) = documents(kustomization)
        files = {one.name for one in kustomization.parent.glob("*.yaml")} - {kustomization.name}
        assert {
            one for one in (*found["resources"], *found.get("configurations", ())) if one.endswith(".yaml")
        } == files
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


@pytest.mark.parametrize("name", ["lrtune-worker", "ray-worker"])
def test_workers_have_the_time_to_hand_their_trials_back(name: str) -> None:
    worker = dict(pods())[name]
    assert worker["terminationGracePeriodSeconds"] >= 60
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_pod_of_ray_has_what_a_worker_has_and_a_fleet_no_more_workers_than_there_may_be_pods() -> None:
    (job,) = documents(HERE / "ray" / "fleet.yaml")
    plain, on_ray = (dict(pods())[name]["containers"][0] for name in ("lrtune-worker", "ray-worker"))
    for part in ("image", "envFrom", "volumeMounts", "resources"):
        assert on_ray[part] == plain[part]
    lrtune, *command = job["spec"]["entrypoint"].split()
    fleet = get_command(app).commands["fleet"]  # type: ignore[attr-defined]
    called = fleet.make_context(lrtune, command[1:]).params
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert called["most"] * called["devices"] <= workers["maxReplicas"]
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()


@pytest.mark.skipif(which("kubectl") is None, reason="rendered by kubectl")
@pytest.mark.parametrize("overlay", ["base", "keda", "ray"])
def test_what_is_rendered_names_the_settings_and_images_that_are_rendered(overlay: str) -> None:
    rendered = subprocess.run(["kubectl", "kustomize", HERE / overlay], check=True, capture_output=True, text=True)
    there = [*yaml.safe_load_all(rendered.stdout)]
    made = {one["metadata"]["name"] for one in there}
    named = set(re.findall(r"(?:configMapRef|secretRef):\s+name: (\S+)", rendered.stdout))
    assert len(named) == 2
    assert named <= made
    assert all(":" in image for image in re.findall(r"image: (\S+)", rendered.stdout)), "of which release"
    assert ("lrtune-worker" in made) == (overlay != "ray"), "started by Kubernetes or by Ray"


def test_the_image_of_workers_has_the_package_of_every_task_and_optimizer() -> None:
    lines = (ROOT / "Dockerfile").read_text().partition(" AS worker")[2]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"'\.\[(.*?)\]'", lines)
    installed = {re.split(r"[<>=\[]", line)[0] for name in named.split(",") for line in extras[name]}
    assert {"torch", "ray"} <= installed
    assert {need for task in BUILT_IN.values() for need in task.needs} <= installed
    assert {cls.packaged[0] for cls in OPTIMIZERS.values() if cls.packaged} <= installed


def test_every_gpu_that_compose_reserves_has_a_worker() -> None:
    worker = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], worker["environment"]["LRTUNE_DEVICE"]) == ("all", "all")
    for name, value in worker["environment"].items():
        assert name.removeprefix("LRTUNE_").lower() in WorkerSettings.model_fields, value


def test_workers_are_scaled_by_a_metric_that_there_is() -> None:
    (scaled,) = documents(HERE / "keda" / "scaled-object.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] in dict(pods())
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["valueLocation"] == "lrtune_workers_wanted"
    assert "wanted" in Census.__slots__
