"""What `/metrics` counts: every request by its route and its status, whatever clients send and whatever goes wrong."""

import gzip
import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session

from app.routes import tasks as tasks_route
from tests.external import submit, take
from tests.serving import Done, served
from worker.loop import Worker
from worker.settings import Settings


def counted(service: httpx.Client) -> dict[tuple[str, str, str], float]:
    line = re.compile(r'lrtune_requests_total\{method="(.*?)",route="(.*?)",status="(.*?)"\} (.*)')
    found = line.findall(service.get("/metrics").text)
    return {(method, route, status): float(value) for method, route, status, value in found}


def test_metrics_count_what_nobody_foresaw(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Session) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tasks_route.catalogue, "tasks", fail)
    with served(sqlite_url) as service:
        for _ in range(3):
            assert service.get("/v1/tasks").status_code == 500
        assert service.head("/v1/tasks").status_code == 500
        assert counted(service)["GET", "/v1/tasks", "500"] == 3
        assert counted(service)["HEAD", "/v1/tasks", "500"] == 1
        assert 'lrtune_request_seconds_count{route="/v1/tasks"} 4.0' in service.get("/metrics").text


def test_no_client_can_make_series_without_end(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        for at in range(20):
            service.get(f"/v1/jobs/job-{at}")
            service.get(f"/v1/jobs/job-{at}/")
            service.get(f"//v1/jobs/job-{at}")
            service.get(f"/nowhere/{at}")
            service.get(f"/static/{at}.js")
            service.request(("PROPFIND", "LOCK", "M-SEARCH", "TRACE")[at % 4], "/v1/jobs")
            service.request(("PROPFIND", "LOCK", "M-SEARCH", "TRACE")[at % 4], f"/nowhere/{at}")
            service.head(f"/v1/jobs/job-{at}/trials/{at}")
        service.options("/v1/jobs")
        service.post("/v1/schedules/preview", content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
        found = counted(service)
        assert found["GET", "/v1/jobs/{job_id}", "404"] == 20
        assert found["HEAD", "/v1/jobs/{job_id}/trials/{number}", "404"] == 20
        assert found["other", "/v1/jobs", "405"] == 20
        assert found["POST", "/v1/schedules/preview", "422"] == 1
        assert found["OPTIONS", "/v1/jobs", "204"] == 1
        assert len(found) < 12, sorted(found)


def test_requests_whose_body_is_refused_are_counted_by_their_route(sqlite_url: str, tmp_path: Path) -> None:
    bytes_ = random.Random(1).randbytes(1500)
    refused: tuple[tuple[str, dict[str, Any], int], ...] = (
        ("/v1/jobs", {"content": b" " * 1500}, 413),
        ("/v1/jobs", {"content": iter([b" " * 900] * 2)}, 413),
        ("/v1/jobs", {"content": gzip.compress(b" " * 1500), "headers": {"Content-Encoding": "gzip"}}, 413),
        ("/v1/jobs", {"content": gzip.compress(bytes_), "headers": {"Content-Encoding": "gzip"}}, 413),
        ("/v1/jobs", {"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, 400),
        ("/v1/jobs", {"content": b"{}", "headers": {"Content-Encoding": "br"}}, 415),
        ("/v1/jobs/{job_id}/trials/{number}/reports", {"content": b" " * 1500}, 413),
        ("/v1/datasets", {"content": bytes_ * 2, "params": {"name": "x.csv"}}, 413),
        ("/v1/datasets", {"content": b"{}", "headers": {"Content-Encoding": "br"}, "params": {"name": "x.csv"}}, 415),
        ("/sign-in", {"content": b"key=" + b"a" * 1500}, 413),
    )
    with served(sqlite_url, data_dir=tmp_path, max_body_bytes=1000, max_upload_bytes=2000) as service:
        for route, asked, status in refused:
            answer = service.post(route.format(job_id="x", number=1), **asked)
            assert answer.status_code == status, (route, status, answer.text)
            if status == 415:
                assert answer.headers["accept-encoding"] == "gzip"
        found = counted(service)
    assert not [key for key in found if key[1] == "other"]
    assert {status: count for (_, route, status), count in found.items() if route == "/v1/jobs"} == {
        "413": 4,
        "400": 1,
        "415": 1,
    }
    assert found["POST", "/v1/datasets", "415"] == found["POST", "/sign-in", "413"] == 1


def test_decisions_are_counted_with_their_seconds_whoever_makes_them(database_url: str, tmp_path: Path) -> None:
    """A worker's suggestions and verdicts, and those that the server makes for a loop of the user's own."""
    asked: dict[str, Any] = {"task": {"name": "digits", "params": {"hidden": [4]}}, "horizon": {"steps": 40}}
    asked |= {"search": {"sampler": "random", "pruner": "forecast"}, "confirm": {"top": 0}}
    with served(database_url) as service:
        job_id = service.post("/v1/jobs", json=asked | {"budget": {"trials": 3}}).json()["id"]
        Worker(Settings(database_url=database_url, device="cpu", state_dir=str(tmp_path / "states")), Done()).work()
        job = service.get(f"/v1/jobs/{job_id}").json()
        loop = submit(service)
        take(service, loop)
        text = service.get("/metrics").text
    found = {
        (sample.labels["what"], sample.labels["by"], sample.name.rpartition("_")[2], sample.labels.get("le")): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lrtune_decision_seconds")
    }
    assert found["suggestion", "server", "count", None].value >= 1
    counts = {what: found[what, "worker", "count", None].value for what in ("suggestion", "verdict")}
    assert counts["suggestion"] >= sum(job["progress"]["trials"].values())
    assert counts["verdict"] >= 1
    for what, count in counts.items():
        assert 0 < found[what, "worker", "sum", None].value < 600
        cumulative = [found[what, "worker", "bucket", end].value for end in ("0.01", "1.0", "100.0", "+Inf")]
        assert cumulative == sorted(cumulative)
        assert cumulative[-1] == count
