"""What the door promises: who may come in, and what a job's life looks like over HTTP."""

import json
import logging
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import migrations
from app import plans
from app.auth import server_key
from app.settings import Settings
from lrtune.export import FORMATS
from lrtune.search import advance
from lrtune.store import Database, jobs, trials
from lrtune.wire.results import Job, NextStep, Proposal, TrialDetail, TrialState
from tests.serving import KEY, served, slug, trained

JSON = {"Content-Type": "application/json"}
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def service(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


@pytest.fixture
def lite(sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        yield client


def submitted(service: httpx.Client, **fields: Any) -> str:
    answer = service.post("/v1/jobs", json={"task": "digits"} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


# Who may come in ------------------------------------------------------------------------------------------------------


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    settings = Settings(credentials=tmp_path / "state" / "credentials")
    key = server_key(settings)
    assert settings.credentials.read_text() == key + "\n"
    assert stat.S_IMODE(settings.credentials.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.credentials.parent.stat().st_mode) == 0o700
    assert server_key(settings) == key, "the second start takes the same"
    assert [path.name for path in settings.credentials.parent.iterdir()] == ["credentials"]


def test_servers_that_start_together_share_one_key(tmp_path: Path) -> None:
    settings = Settings(credentials=tmp_path / "credentials")
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: server_key(settings), range(64)))) == 1


def test_the_log_says_where_the_key_is_and_not_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(credentials=tmp_path / "credentials")
    with caplog.at_level(logging.INFO):
        key = server_key(settings)
    assert str(settings.credentials) in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY])
def test_nothing_under_v1_is_told_without_the_key(lite: httpx.Client, authorization: str | None) -> None:
    del lite.headers["authorization"]
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/tasks"), ("GET", "/metrics")):
        answer = lite.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json()["type"] == "/problems/unauthorized"


def test_every_route_but_the_open_ones_asks_for_the_key(lite: httpx.Client) -> None:
    described = lite.get("/openapi.json").json()["paths"]
    del lite.headers["authorization"]
    for path, methods in described.items():
        for method in methods:
            answer = lite.request(method, re.sub(r"{\w+}", "1", path))
            assert (answer.status_code == 200) == (path in ("/healthz", "/readyz")), (method, path)
            assert answer.status_code in (200, 401)
    assert lite.get("/docs").status_code == 200


def test_metrics_can_be_opened_to_everybody(sqlite_url: str) -> None:
    with served(sqlite_url, metrics_public=True) as service:
        del service.headers["authorization"]
        assert service.get("/metrics").status_code == 200
        assert service.get("/v1/jobs").status_code == 401


# A job's life ---------------------------------------------------------------------------------------------------------


def test_the_smallest_job_is_stored_with_everything_filled_in(service: httpx.Client) -> None:
    answer = service.post("/v1/jobs", json={"task": "digits"})
    job = Job.model_validate_json(answer.content)
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/jobs/{job.id}")
    assert job.spec.model_dump(include={"task", "metric", "horizon"}) == {
        "task": {"name": "digits", "params": {"batch_size": 32, "hidden": [64, 64], "noise": 0.0}},
        "metric": {"name": "val_loss", "goal": "minimize", "range": (0.0, None)},
        "horizon": {"steps": 960, "epochs": None},
    }
    assert service.get(answer.headers["Location"]).json() == answer.json()


def test_a_plan_is_answered_and_nothing_is_stored(service: httpx.Client) -> None:
    job = {
        "task": "digits",
        "horizon": {"steps": 500},
        "optimizers": [{"name": "sgd", "momentum": 0.9, "learning_rate": [0.01, 1.0]}],
        "schedules": ["cosine", {"family": "wsd", "shape": ["linear", "sqrt"]}],
        "budget": {"full_runs": 20, "trials": 8},
    }
    answer = service.post("/v1/jobs", json=job, params={"validate_only": True})
    plan = answer.json()
    assert answer.status_code == 200
    assert plan["cost"] == {
        "search_full_runs": 8.0,
        "confirm_full_runs": 12.0,
        "total_full_runs": 20.0,
        "total_steps": 10_000,
    }
    assert plan["space"]["optimizers"]["sgd"]["momentum"] == {"fixed": 0.9}
    assert plan["space"]["schedules"]["wsd"]["decay"] == {"range": [0.1, 0.8], "log": False}
    assert plan["space"]["schedules"]["wsd"]["shape"] == {"choice": ["linear", "sqrt"]}
    assert len(plan["first"]) == 5
    assert len({json.dumps(one["configuration"]) for one in plan["first"]}) == 5
    assert all(len(one["curve"]) == 64 for one in plan["first"])
    assert service.get("/v1/jobs").json() == {"items": [], "next": None, "unreadable": []}


def test_nobody_waits_for_a_plan_that_is_being_thought_out(lite: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*args: Any, **kwargs: Any) -> NextStep:
        answer = lite.post("/v1/jobs", json={"task": "digits"}, timeout=20)
        assert answer.status_code == 201, "SQLite's one writer is free"
        return advance(*args, **kwargs)

    monkeypatch.setattr(plans, "advance", meanwhile)
    plan = lite.post("/v1/jobs", json={"task": "digits"}, params={"validate_only": True})
    assert plan.status_code == 200
    assert len(lite.get("/v1/jobs").json()["items"]) == len(plan.json()["first"]) == 5


def test_a_plan_shows_a_space_of_one_point_and_its_baseline(lite: httpx.Client) -> None:
    job = {
        "task": "digits",
        "optimizers": [{"name": "adamw", "learning_rate": 0.01}],
        "schedules": ["constant"],
        "warmup": 0,
        "budget": {"full_runs": None, "seconds": 60},
    }
    plan = lite.post("/v1/jobs", json=job, params={"validate_only": True}).json()
    assert [one["configuration"]["learning_rate"] for one in plan["first"]] == [0.001, 0.01]
    assert plan["cost"]["total_full_runs"] is None


def test_the_same_key_and_body_is_the_same_job_again(service: httpx.Client) -> None:
    first, again = (
        service.post("/v1/jobs", json={"task": "digits"}, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert again.headers["Location"] == first.headers["Location"]
    other = service.post("/v1/jobs", json={"task": "digits", "name": "x"}, headers={"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert len(service.get("/v1/jobs").json()["items"]) == 1


def test_sixty_submissions_at_once_are_all_answered_and_one_key_makes_one_job(service: httpx.Client) -> None:
    def submit(number: int) -> httpx.Response:
        headers = {"Idempotency-Key": "shared"} if number % 2 else {}
        return service.post("/v1/jobs", json={"task": "digits"}, headers=headers)

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(submit, range(60)))
    assert {answer.status_code for answer in answers} == {200, 201}
    assert len({answer.json()["id"] for answer in answers}) == 31


def test_a_hundred_calls_at_once_do_not_wait_for_one_another_in_a_circle(service: httpx.Client) -> None:
    paths = [f"/v1/jobs/{submitted(service)}" for _ in range(5)]

    def call(number: int) -> int:
        path = paths[number % 5]
        return (service.get("/v1/jobs") if number % 2 else service.post(f"{path}/pause")).status_code

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(call, range(200))) == {200, 202}


def test_a_commit_that_fails_is_no_201(service: httpx.Client) -> None:
    def fail(tx: Session) -> None:
        if not tx.in_nested_transaction():
            raise OperationalError("commit", None, Exception("the disk is full"))

    event.listen(Session, "before_commit", fail)
    try:
        answer = service.post("/v1/jobs", json={"task": "digits"})
    finally:
        event.remove(Session, "before_commit", fail)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert service.get("/v1/jobs").json()["items"] == []


def test_a_job_that_has_not_changed_is_not_sent_again(service: httpx.Client) -> None:
    path = f"/v1/jobs/{submitted(service)}"
    etag = service.get(path).headers["ETag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        answer = service.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    service.post(f"{path}/pause")
    answer = service.get(path, headers={"If-None-Match": etag})
    assert (answer.status_code, answer.json()["state"]) == (200, "paused")
    assert answer.headers["ETag"] != etag


def test_paging_visits_every_job_once_while_jobs_are_added(service: httpx.Client) -> None:
    before = [submitted(service) for _ in range(7)]
    seen, params = [], {"limit": "3"}
    while True:
        page = service.get("/v1/jobs", params=params).json()
        seen += [job["id"] for job in page["items"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
        submitted(service)
    assert seen == before[::-1]


def test_jobs_are_found_by_state_and_tag(service: httpx.Client) -> None:
    first = submitted(service, tags={"team": "risk"})
    second = submitted(service, tags={"team": "ads:eu"})
    service.post(f"/v1/jobs/{first}/pause")

    def found(**params: str) -> list[str]:
        return [job["id"] for job in service.get("/v1/jobs", params=params).json()["items"]]

    assert found(state="paused") == [first]
    assert found(tag="team") == [second, first]
    assert found(tag="team:ads:eu") == [second]
    assert found(tag="team:none") == []


@pytest.mark.parametrize(("limit", "items"), [("-5", 1), ("0", 1), ("2", 2), ("10000000000000000000000", 3)])
def test_a_limit_is_moved_inside_its_bounds(lite: httpx.Client, limit: str, items: int) -> None:
    for _ in range(3):
        submitted(lite)
    assert len(lite.get("/v1/jobs", params={"limit": limit}).json()["items"]) == items


def test_the_verbs_are_idempotent_and_a_finished_job_can_go(service: httpx.Client) -> None:
    path = f"/v1/jobs/{submitted(service)}"
    budget = {"budget": {"full_runs": 25, "seconds": 60}}
    for verb, state in (("pause", "paused"), ("resume", "queued"), ("extend", "queued"), ("cancel", "cancelled")):
        for _ in range(2):
            answer = service.post(f"{path}/{verb}", json=budget if verb == "extend" else None)
            assert (answer.status_code, answer.json()["state"]) == (202, state)
        if verb == "resume":
            assert service.delete(path).json()["type"] == "/problems/job-not-finished"
    assert answer.json()["spec"]["budget"] == {"full_runs": 25.0, "trials": None, "seconds": 60.0}
    assert service.post(f"{path}/resume").json()["type"] == "/problems/job-finished"
    assert service.delete(path).status_code == 204
    assert service.get(path).status_code == 404


# Trials, answers, catalogues ------------------------------------------------------------------------------------------


def proposed(database_url: str, job_id: str, schedule: dict[str, Any], *, steps: int = 4) -> None:
    """Add a trial with this schedule over so many steps to a job."""
    configuration = {"optimizer": {"name": "sgd"}, "learning_rate": 0.5, "schedule": schedule}
    proposal = Proposal.model_validate(
        {"configuration": configuration, "role": "search", "seed": 7, "horizon": steps, "reason": "for the test"}
    )
    database = Database(database_url)
    with database.write() as tx:
        assert trials.propose(tx, job_id, proposal, known=jobs.outline(tx, job_id).row.decisions)
    database.dispose()


def test_a_trial_comes_with_its_curve(database_url: str) -> None:
    with served(database_url) as service:
        job_id = submitted(service, horizon={"steps": 4})
        proposed(database_url, job_id, {"family": "linear"})
        page = service.get(f"/v1/jobs/{job_id}/trials").json()
        assert [(one["number"], one["state"]) for one in page["items"]] == [(0, "waiting")]
        trial = TrialDetail.model_validate_json(service.get(f"/v1/jobs/{job_id}/trials/0").content)
    assert trial.state is TrialState.WAITING
    assert trial.curve == [(0, 0.5), (1, 0.375), (2, 0.25), (3, 0.125)]


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        job_id = submitted(service, horizon={"steps": 100_000_000})
        proposed(sqlite_url, job_id, {"family": "linear"}, steps=100_000_000)
        curve = service.get(f"/v1/jobs/{job_id}/trials/0").json()["curve"]
    assert len(curve) == 2000
    assert (curve[0], curve[-1][0]) == ([0, 0.5], 99_999_999)


@pytest.mark.parametrize("schedule", ["linear", {"family": "linear"}])
def test_a_preview_draws_any_schedule(lite: httpx.Client, schedule: Any) -> None:
    asked = {"schedule": schedule, "steps": 5, "learning_rate": 0.1, "warmup": 0.4, "floor": 0.5}
    curve = lite.post("/v1/schedules/preview", json=asked).json()["curve"]
    assert [step for step, _ in curve] == [0, 1, 2, 3, 4]
    assert [rate for _, rate in curve] == pytest.approx([0.05, 0.1, 0.1, 0.1 * 2 / 3, 0.05])


def test_a_preview_of_a_rule_that_looks_at_the_loss_replays_its_reports(lite: httpx.Client) -> None:
    asked = {
        "schedule": {"family": "plateau", "factor": 0.5, "patience": 0},
        "steps": 4,
        "reports": [[2, 1.0], [3, None], [1, 1.0]],
    }
    curve = lite.post("/v1/schedules/preview", json=asked).json()["curve"]
    assert curve == [[0, 1.0], [1, 1.0], [2, 0.5], [3, 0.5]]


def test_the_catalogue_tells_families_knobs_and_formulas(lite: httpx.Client) -> None:
    found = lite.get("/v1/schedules").json()
    cosine = next(one for one in found["items"] if one["family"] == "cosine")
    assert "cos(pi * arc * u)" in cosine["formula"]
    assert cosine["knobs"]["final"]["default"] == 0.0
    assert cosine["knobs"]["final"]["search"] == [0.0, 0.1]
    assert {"adamw", "sgd"} <= {one["name"] for one in found["optimizers"]}
    tasks = lite.get("/v1/tasks").json()["items"]
    assert [task["name"] for task in tasks] == ["digits", "tabular", "images", "text", "huggingface", "external"]
    assert tasks[1]["params"]["required"] == ["dataset"]


def test_the_answer_stands_beside_its_baseline_and_can_be_exported(database_url: str) -> None:
    with served(database_url) as service:
        path = f"/v1/jobs/{submitted(service, horizon={'steps': 40})}"
        assert slug(service.get(f"{path}/best")) == "no-result-yet"
        trained(database_url, path.rpartition("/")[2], [0.5, 0.25, 0.3])
        best = service.get(f"{path}/best").json()
        assert (best["value"], best["trial"], best["baseline"]["value"]) == (0.25, 1, 0.5)
        assert service.get(path).json()["best"] == best
        files = {name: service.get(f"{path}/best/export", params={"format": name}) for name in FORMATS}
        unknown = service.get(f"{path}/best/export", params={"format": "fax"})
    assert all("PEAK = 0.002" in file.text for name, file in files.items() if name not in ("json", "csv"))
    assert len(files["json"].json()["learning_rates"]) == 40
    assert files["csv"].text.startswith("step,learning_rate\n0,0.002\n")
    assert files["csv"].headers["Content-Disposition"] == 'attachment; filename="learning_rate.csv"'
    assert (unknown.status_code, slug(unknown), unknown.json()["errors"][0]["pointer"]) == (422, "invalid", "/format")
    assert "deepspeed, timm, json, csv" in unknown.json()["detail"]


# For those who run it -------------------------------------------------------------------------------------------------


def test_a_server_is_not_ready_before_its_schema_is_current(database_url: str) -> None:
    with served(database_url) as service:
        assert service.get("/readyz").status_code == 200
        migrations.downgrade(database_url, "base")
        answer = service.get("/readyz")
        assert (answer.status_code, slug(answer)) == (503, "unavailable")
        assert "lrtune migrate" in answer.json()["detail"]
        migrations.upgrade(database_url)
        assert service.get("/readyz").status_code == 200


def test_on_sqlite_the_server_makes_folder_and_schema_itself(tmp_path: Path) -> None:
    with served(f"sqlite:///{tmp_path}/new/folder/lrtune.db") as service:
        assert service.get("/readyz").status_code == 200
        submitted(service)


def test_metrics_count_requests_by_route_and_jobs_by_state(service: httpx.Client) -> None:
    service.post(f"/v1/jobs/{submitted(service)}/pause")
    service.get("/v1/jobs/job-unknown")
    service.get("/nowhere")
    text = service.get("/metrics").text
    assert re.search(r'lrtune_requests_total\{method="GET",route="/v1/jobs/\{job_id\}",status="404"\} 1.0', text)
    assert re.search(r'lrtune_requests_total\{method="other",route="other",status="404"\} 1.0', text)
    assert 'lrtune_jobs{state="paused"} 1.0' in text
    assert 'lrtune_trials{state="running"} 0.0' in text
    assert "lrtune_workers 0.0" in text
    assert "job-unknown" not in text


def test_the_door_needs_no_torch() -> None:
    code = "import sys, app.main; sys.exit('torch' in sys.modules or 'worker' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
