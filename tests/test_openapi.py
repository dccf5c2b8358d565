"""Schemathesis against a running server, with all its checks: no 5xx, and no answer that the API does not describe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import tries
from tests.serving import KEY, served, trained

# JSON Schema cannot say that a range's low end lies below its high one, that a name comes once in a list of objects, or
# that one of two fields is set. So a job that fits the schema may still be refused, in words: 422 besides 2xx and 409.
# The calls on a job's results would hardly ever meet one that has any, so these are told of one, and deletions of
# another, lest they take it away. What these two answer says nothing of a job that was made a moment ago. An import is
# such a job with its trials: its fields are not gone through one by one a second time, only fuzzed. Neither is a job
# planned for each value of each of its fields, which is most of the time: plans are fuzzed by a run of their own. And
# of optimizers and schedules, whose knobs are all checked by one function, a few are gone through: the knobs of every
# schedule are where it is previewed.
FEW = 3
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "422"]

[[operations]]
include-path-regex = "job_id./(best|report|trials|events)"
parameters = {{ job_id = "{job_id}", "path.number" = 1 }}
checks.ensure_resource_availability.enabled = false

[[operations]]
include-method = "DELETE"
parameters = {{ job_id = "{deleted}" }}
checks.ensure_resource_availability.enabled = false

[[operations]]
include-path = "/v1/imports"
phases.coverage.enabled = false

[[operations]]
include-name = "POST /v1/jobs"
parameters = {{ "query.validate_only" = {planned} }}
"""


@pytest.mark.timeout(600)
def test_the_server_does_what_its_description_says(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "FREE", 10_000)  # every call is made with a wrong key as well
    with served(sqlite_url, data_dir=tmp_path / "data") as service:
        kept, deleted = (
            service.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 40}}).json()["id"] for _ in range(2)
        )
        trained(sqlite_url, kept, [0.5, 0.25])
        service.post(f"/v1/jobs/{deleted}/cancel")
        fuzzed(service, tmp_path, CONFIG.format(job_id=kept, deleted=deleted, planned="false"))
        plans = ("--include-name", "POST /v1/jobs", "--phases", "fuzzing")
        fuzzed(service, tmp_path, CONFIG.format(job_id=kept, deleted=deleted, planned="true"), *plans)


def thinned(described: dict[str, Any]) -> dict[str, Any]:
    """The description with a few of the optimizers and schedules that a job may have."""
    job = described["components"]["schemas"]["JobSpec"]["properties"]
    for field in ("optimizers", "schedules"):
        (union,) = (choice for choice in job[field]["items"]["anyOf"] if "oneOf" in choice)
        assert len(union["oneOf"]) > FEW
        union["oneOf"] = union["oneOf"][:FEW]
        union["discriminator"].pop("mapping")
    return described


def fuzzed(service: httpx.Client, folder: Path, config: str, *options: str) -> None:
    (folder / "schemathesis.toml").write_text(config)
    (folder / "described.json").write_text(json.dumps(thinned(service.get("/openapi.json").json())))
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml")),
            *("run", str(folder / "described.json"), "--url", str(service.base_url)),
            *("--header", f"Authorization: Bearer {KEY}"),
            *("--checks", "all", "--max-examples", "4", "--seed", "1", "--no-color", *options),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]


def test_every_answer_is_described_and_every_call_explained(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        described = service.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, call in methods.items():
            assert call["summary"], (method, path)
            assert call["description"], (method, path)
            assert call["tags"], (method, path)
            answers = call["responses"]
            assert "500" in answers
            assert all(set(answers[code]["content"]) == {"application/problem+json"} for code in answers if code >= "4")
            if path.startswith("/v1"):
                assert {"401", "413", "422"} <= set(answers), (method, path)
                assert call["security"] == [{"key": []}], (method, path)


def test_the_examples_of_the_description_are_jobs(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        body = service.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]
        examples = body["content"]["application/json"]["examples"]
        for example in examples.values():
            assert service.post("/v1/jobs", json=example["value"]).status_code == httpx.codes.CREATED
    assert len(examples) == 2
