"""Every error is a problem: one shape, a stable slug, a pointer at what was wrong, nothing of the server's inside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app.problems import status as status_of
from app.routes import tasks as tasks_route
from lrtune import errors
from tests.serving import served, slug

JSON = {"Content-Type": "application/json"}


WAYS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no such path": ("GET", "/v2/jobs", {}, 404, "not-found"),
    "no such path under v1": ("GET", "/v1/job", {}, 404, "not-found"),
    "no such method": ("PUT", "/v1/jobs", {}, 405, "method-not-allowed"),
    "no such job": ("GET", "/v1/jobs/job-0", {}, 404, "unknown-job"),
    "an id that is none": ("GET", "/v1/jobs/%00%ff..", {}, 404, "unknown-job"),
    "a verb on no such job": ("POST", "/v1/jobs/job-0/cancel", {}, 404, "unknown-job"),
    "a stream of no such job": (
        "GET",
        "/v1/jobs/0/events",
        {"headers": {"Accept": "text/event-stream"}},
        404,
        "unknown-job",
    ),
    "no such state": ("GET", "/v1/jobs?state=asleep", {}, 422, "invalid"),
    "no such cursor": ("GET", "/v1/jobs?cursor=%F0%9F%98%80", {}, 422, "invalid"),
    "a limit that is no number": ("GET", "/v1/jobs?limit=ten", {}, 422, "invalid"),
    "a tag with a NUL": ("GET", "/v1/jobs?tag=%00", {}, 422, "invalid"),
    "a misspelt parameter": ("POST", "/v1/jobs?validate_onyl=1", {"json": {"task": "digits"}}, 422, "invalid"),
    "a trial that is no number": ("GET", "/v1/jobs/job-0/trials/one", {}, 422, "invalid"),
    "a trial beyond numbers": ("GET", "/v1/jobs/job-0/trials/99999999999999999999", {}, 422, "invalid"),
    "no JSON": ("POST", "/v1/jobs", {"content": b"{", "headers": JSON}, 400, "bad-request"),
    "too deep": ("POST", "/v1/jobs", {"content": b"[" * 99_999, "headers": JSON}, 400, "bad-request"),
    "not sent as JSON": ("POST", "/v1/jobs", {"content": b'{"task": "digits"}'}, 422, "invalid"),
    "no body": ("POST", "/v1/jobs", {}, 422, "invalid"),
    "too large": ("POST", "/v1/jobs", {"content": b" " * 2_000_000, "headers": JSON}, 413, "too-large"),
    "a key that is too long": (
        "POST",
        "/v1/jobs",
        {"json": {"task": "digits"}, "headers": {"Idempotency-Key": "k" * 256}},
        422,
        "invalid",
    ),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("errors") / "lrtune.db"
    path.write_bytes(sqlite_template.read_bytes())
    with served(f"sqlite:///{path}") as client:
        yield client


@pytest.mark.parametrize(("method", "path", "content", "status", "kind"), WAYS.values(), ids=WAYS)
def test_every_way_to_fail_ends_in_a_problem(
    shared: httpx.Client, method: str, path: str, content: dict[str, Any], status: int, kind: str
) -> None:
    answer = shared.request(method, path, **content)
    assert (answer.status_code, slug(answer)) == (status, kind)


def test_parameters_are_named_where_they_stand(shared: httpx.Client) -> None:
    problem = shared.get("/v1/jobs?limit=ten").json()
    detail = "query parameter limit: found 'ten'; accepted is a valid integer"
    assert (problem["detail"], problem["errors"]) == (detail, [{"pointer": "/limit", "detail": detail}])
    problem = shared.post("/v1/jobs?validate_onyl=1", json={"task": "digits"}).json()
    assert problem["errors"][0]["pointer"] == "/validate_onyl"
    assert problem["detail"].endswith("accepted are validate_only")


def test_a_method_that_is_not_taken_is_told_which_are(shared: httpx.Client) -> None:
    assert shared.put("/v1/jobs").headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert shared.post("/v1/jobs/job-1").headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Session) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(tasks_route.workers, "alive", fail)
    with served(sqlite_url) as service:
        answer = service.get("/v1/workers")
    assert (answer.status_code, slug(answer)) == (500, "internal")
    assert "secret" not in answer.text


def test_a_database_that_is_away_is_a_503(tmp_path: Path) -> None:
    with served("postgresql+psycopg://nobody@127.0.0.1:1/none") as service:
        for path in ("/v1/jobs", "/readyz", "/metrics"):
            answer = service.get(path)
            assert (answer.status_code, slug(answer), answer.headers["Retry-After"]) == (503, "unavailable", "5")
        assert service.get("/healthz").json() == {"status": "ok"}


def test_every_error_of_the_domain_has_a_status_and_comes_back_as_its_class() -> None:
    found = {kind.slug(): status_of(kind) for kind in errors._all(errors.LrtuneError)}
    assert found["lease-lost"] == 409
    assert found["unknown-trial"] == 404
    assert all(400 <= code < 600 for code in found.values())
