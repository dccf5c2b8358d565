"""What `/metrics` counts: every request by its route and its status, whatever clients send and whatever goes wrong."""

import gzip
import re

import httpx
import pytest
from sqlalchemy.orm import Session

from app.routes import tasks as tasks_route
from tests.serving import served


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
        assert counted(service)["GET", "/v1/tasks", "500"] == 3
        assert 'lrtune_request_seconds_count{route="/v1/tasks"} 3.0' in service.get("/metrics").text


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
